"""Runs the service: `python -m user_service`, with the settings `choreo up` gives it."""

from choreo.chassis.runtime import serve
from user_service.app import build

if __name__ == "__main__":
    serve("user", build)
