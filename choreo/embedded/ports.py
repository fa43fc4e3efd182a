"""TCP ports on the loopback interface."""

import socket
import time

from choreo.errors import Unavailable

LOOPBACK = "127.0.0.1"


def listen(port: int, part: str) -> socket.socket:
    """A listening socket on the loopback interface, to be handed to `part`; Unavailable if taken.

    Tries for a second: the part of a system that was just killed may still be letting go of it.
    """
    deadline = time.monotonic() + 1
    while True:
        try:
            return _bind(port)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise Unavailable(
                f"Port {port}, needed for {part}, cannot be used ({error.strerror}): stop what listens "
                f"there, or choose other ports with CHOREO_PORT_BASE."
            ) from None


def require_free(port: int, part: str) -> None:
    """Unavailable if `part` could not listen on `port` now."""
    listen(port, part).close()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at this moment; for throw-away parts."""
    sockets = [_bind(0) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _bind(port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock
