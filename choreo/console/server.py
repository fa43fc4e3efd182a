"""The console as a process: it listens on loopback alone, and stays until it is told to stop."""

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import uvicorn
from prometheus_client import CollectorRegistry

from choreo.chassis.http.protocol import Connections, options_of_uvicorn
from choreo.console.app import create_app
from choreo.console.verification import kept_in
from choreo.console.views import Views
from choreo.embedded.ports import LOOPBACK
from choreo.operations.reading.replay_source import System

REST_AFTER_SECONDS = 60.0
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
    server = server_of(Views(where, kept_in(where)), hosts, rest_after)
    tell(f"http://{LOOPBACK}:{listening.getsockname()[1]}/")
    with suppress(KeyboardInterrupt):  # raised again by uvicorn, once all is closed
        server.run(sockets=[listening])


def server_of(views: Views, hosts: Iterable[str], rest_after: float = float("inf")) -> uvicorn.Server:
    connected = time.monotonic()

    async def look() -> None:
        nonlocal connected
        if server.server_state.connections or views.verifying.runs or views.folding.runs:
            connected = time.monotonic()
        elif time.monotonic() > connected + rest_after:
            server.should_exit = True

    connections = Connections(_MOST_CONNECTIONS, CollectorRegistry())
    config = uvicorn.Config(
        create_app(views, hosts),
        **options_of_uvicorn(connections),
        timeout_graceful_shutdown=1,
        callback_notify=look,
        timeout_notify=_LOOK_SECONDS,
    )
    server = uvicorn.Server(config)
    return server
