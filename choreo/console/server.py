"""The console as a process: it listens on loopback alone, and stays until it is told to stop."""

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import uvicorn
from prometheus_client import CollectorRegistry

from choreo.chassis.http.protocol import Connections, options_of_uvicorn
from choreo.console.app import create_app
from choreo.embedded.ports import LOOPBACK
from choreo.operations.reading.replay_source import System

REST_AFTER_SECONDS = 300.0
"""Without anybody connected it ends, where it is begun again for whoever comes next."""
_LOOK_SECONDS = 5
_MOST_CONNECTIONS = 100


def serve(
    where: System,
    hosts: Iterable[str],
    listening: socket.socket,
    tell: Callable[[str], None],
    rest_after: float = float("inf"),
) -> None:
    """Tells its address once it listens. `rest_after`: seconds without a connection after which it ends."""
    connections = Connections(_MOST_CONNECTIONS, CollectorRegistry())
    config = uvicorn.Config(
        create_app(where, hosts),
        **options_of_uvicorn(connections),
        timeout_graceful_shutdown=1,
    )
    tell(f"http://{LOOPBACK}:{listening.getsockname()[1]}/")
    server = uvicorn.Server(config)
    connected = time.monotonic()

    async def look() -> None:
        nonlocal connected
        if server.server_state.connections:
            connected = time.monotonic()
        elif time.monotonic() > connected + rest_after:
            server.should_exit = True

    config.callback_notify, config.timeout_notify = look, _LOOK_SECONDS
    with suppress(KeyboardInterrupt):  # raised again by uvicorn, once all is closed
        server.run(sockets=[listening])
