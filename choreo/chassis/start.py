"""Where a service begins: it decides how all the rest is imported, and imports nothing before."""

from choreo.collector import no_collector


def serve(name: str) -> None:
    """Runs a service until it is told to stop, as `choreo.chassis.runtime` does."""
    with no_collector():
        from choreo.chassis import runtime
    runtime.serve(name)
