"""Runs the service: `python -m order_service`, with the settings `choreo up` gives it."""

from choreo.chassis.start import serve

if __name__ == "__main__":
    serve("order")
