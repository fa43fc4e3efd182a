"""The console as a process: it listens on loopback alone, and stays until it is told to stop."""

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import uvicorn
from prometheus_client import CollectorRegistry

from choreo.chassis.http.protocol import BoundedProtocol, Connections
from choreo.console.app import create_app
from choreo.embedded.ports import LOOPBACK
from choreo.errors import Unavailable
from choreo.operations.reading.replay_source import System

PORT_OFFSET = 5
"""From the port base."""
_MOST_CONNECTIONS = 100


def serve(where: System, hosts: Iterable[str], port: int, tell: Callable[[str], None]) -> None:
    """Tells its address once it listens. Raises `Unavailable` where the port is taken."""
    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise Unavailable(
            f"Port {port} cannot be had ({error.strerror}): stop what listens there, or set CHOREO_PORT_BASE."
        ) from None
    connections = Connections(_MOST_CONNECTIONS, CollectorRegistry())
    config = uvicorn.Config(
        create_app(where, hosts),
        http=partial(BoundedProtocol, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    tell(f"http://{LOOPBACK}:{port}/")
    with suppress(KeyboardInterrupt):  # raised again by uvicorn, once all is closed
        uvicorn.Server(config).run(sockets=[listening])
