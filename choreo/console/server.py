"""The console as a process: it listens on loopback alone, and stays until it is told to stop."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import uvicorn
from prometheus_client import CollectorRegistry

from choreo.chassis.http.protocol import Connections, options_of_uvicorn
from choreo.console.app import create_app
from choreo.embedded.ports import LOOPBACK, listen
from choreo.operations.reading.replay_source import System

PORT_OFFSET = 5
"""From the port base."""
_MOST_CONNECTIONS = 100


def serve(where: System, hosts: Iterable[str], port: int, tell: Callable[[str], None]) -> None:
    """Tells its address once it listens. Raises `Unavailable` where the port is taken."""
    listening = listen(port, "the console")
    connections = Connections(_MOST_CONNECTIONS, CollectorRegistry())
    config = uvicorn.Config(
        create_app(where, hosts),
        **options_of_uvicorn(connections),
        timeout_graceful_shutdown=1,
    )
    tell(f"http://{LOOPBACK}:{port}/")
    with suppress(KeyboardInterrupt):  # raised again by uvicorn, once all is closed
        uvicorn.Server(config).run(sockets=[listening])
