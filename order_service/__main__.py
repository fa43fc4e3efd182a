"""Runs the service: `python -m order_service`, with the settings `choreo up` gives it."""

from choreo.chassis.runtime import serve
from order_service.app import build

if __name__ == "__main__":
    serve("order", build)
