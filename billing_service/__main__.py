"""Runs the service: `python -m billing_service`, with the settings `choreo up` gives it."""

from billing_service.app import build
from choreo.chassis.runtime import serve

if __name__ == "__main__":
    serve("billing", build)
