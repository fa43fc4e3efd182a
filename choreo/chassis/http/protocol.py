"""A connection, bounded: how long it may take to ask, how large a head may be, how many there may be.

A uvicorn protocol with httptools under it. It leans on that protocol's `cycle`, `flow`, `pipeline`, `parser`
and callbacks; `tests/unit/chassis_http/test_http_protocol.py` notices where they are gone.
"""

import asyncio
from functools import partial
from random import uniform
from typing import Any

import httptools
import structlog
from prometheus_client import CollectorRegistry, Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from choreo.chassis.http import headers
from choreo.chassis.http.problems import Problem, malformed

HEAD_SECONDS = 10.0
"""So long may a head take from its first byte; a connection's first from the connection's begin."""
BODY_SECONDS = 10.0
LEAST_BODY_BYTES = 4096
"""So much of a body has to come in so many seconds, or all of it."""
MOST_HEAD_BYTES = 2 * headers.MOST_BYTES
"""Where nobody reads on, in a head or in what frames a body; not counting what came in one piece with its
begin. What is below this and over the headers' bound gets its 431 as any other answer.
"""
MOST_HEADERS = 2 * headers.MOST
"""Likewise, though they came in one piece: 20,000 would take 7 ms to read."""
_TELL_SECONDS = 10.0
CLOSED_AT_ONCE = 5
_AT_ONCE_SECONDS = 0.01
"""Of the idle only so many are closed in so many seconds: whoever comes back at once would keep us busy."""

log = structlog.get_logger()


class Connections:
    """All of a process, at most so many: then the one that is longest without a complete request is closed,
    and somebody new never is. While many come at once there may be twice as many.
    """

    def __init__(self, most: int, registry: CollectorRegistry) -> None:
        self._most = most
        # Both in the order of time. Where all are being answered, the one that is so for longest goes.
        self._asking: dict[BoundedProtocol, None] = {}
        self._answered: dict[BoundedProtocol, None] = {}
        self._closed = Counter(
            "choreo_http_connections_closed",
            "Connections we closed: too slow with a head or a body, a head too large, or too many of them.",
            ("reason",),
            registry=registry,
        )
        self._told = self._closed_since = float("-inf")
        self._closed_lately = 0

    def asks(self, connection: "BoundedProtocol") -> None:
        """Its next request is still to come."""
        self.forget(connection)
        self._asking[connection] = None
        number = len(self._asking) + len(self._answered)
        if number > 2 * self._most or (number > self._most and self.may_close()):
            self.close(next(iter(self._asking if len(self._asking) > 1 else self._answered)), "many")

    def is_answered(self, connection: "BoundedProtocol") -> None:
        """Its request is complete."""
        self.forget(connection)
        self._answered[connection] = None

    def forget(self, connection: "BoundedProtocol") -> None:
        self._asking.pop(connection, None)
        self._answered.pop(connection, None)

    def may_close(self) -> bool:
        """Whether not too many were closed just now."""
        now = asyncio.get_running_loop().time()
        if now > self._closed_since + _AT_ONCE_SECONDS:
            self._closed_since, self._closed_lately = now, 0
        self._closed_lately += 1
        return self._closed_lately <= CLOSED_AT_ONCE

    def close(self, connection: "BoundedProtocol", reason: str) -> None:
        self.forget(connection)
        self._closed.labels(reason).inc()
        now = asyncio.get_running_loop().time()
        if now > self._told + _TELL_SECONDS:
            self._told = now
            log.warning("connections are closed, see choreo_http_connections_closed", reason=reason)
        connection.transport.close()


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, *, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = connections
        self._lacks = "head"
        """What of a request is still to come; nothing, between two of them."""
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = self._body_bytes = 0

    # asyncio calls these

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._all.asks(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._lacks = self._lacks or "head"
        self._head_bytes += len(data)
        self._feed(data)
        if self._lacks and self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(headers.too_large())
            self._all.close(self, "size")
        elif self._lacks and not self.transport.is_closing():
            self._watch()
        else:
            self._unwatch()

    # the parser calls these

    def on_message_begin(self) -> None:
        self._lacks, self._head_bytes = "head", 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._lacks == "head":  # trailers are for nobody here
            if len(self.headers) >= MOST_HEADERS:
                raise headers.too_large()
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._upgrade_is_ignored():
            self._unwatch()
            self._lacks, self._body_bytes = "body", 0
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrade_is_ignored():
            self._lacks = ""
            super().on_message_complete()
            if not self.cycle.response_complete:
                self._all.is_answered(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._all.asks(self)

    # deadlines

    def _watch(self) -> None:
        if self._deadline is None:
            seconds = HEAD_SECONDS if self._lacks == "head" else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self._look)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _look(self) -> None:
        self._deadline = None
        enough = self._lacks == "body" and self._body_bytes >= LEAST_BODY_BYTES
        if enough or self.flow.read_paused:  # then it is we who do not read
            self._body_bytes = 0
            self._watch()
        elif self._all.may_close():
            self._all.close(self, self._lacks)
        else:
            self._deadline = self.loop.call_later(uniform(_AT_ONCE_SECONDS, 1), self._look)

    # what is read

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrade_is_ignored():
                self._feed(self._head_without_upgrade() + data[upgrade.args[0] :])
            else:
                self.cycle.keep_alive = False  # after CONNECT follows no HTTP
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, Problem):  # raised in a callback
                self._refuse(error.__context__)
                self._all.close(self, "size")
            else:
                self._refuse(malformed("malformed_request", "This is no HTTP request."))
                self.transport.close()

    def _upgrade_is_ignored(self) -> bool:
        """Which a server may do (RFC 9110, 7.8), and then the body follows. The parser goes by the headers,
        and takes what follows for another protocol: so it reads the head once more without them.
        """
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def _refuse(self, problem: Problem) -> None:
        """Answers what cannot be read, unless another answer is on its way."""
        cycle = self.cycle
        unread = cycle and cycle.more_body and not cycle.response_started and not self.pipeline
        if cycle is None or cycle.response_complete or unread:
            answer = problem.answer()
            told = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}
            head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            self.transport.write(STATUS_LINE[answer.status] + head.encode() + b"\r\n" + answer.body)


def options_of_uvicorn(connections: Connections) -> dict[str, Any]:
    """How every server of ours is run: bounded, without web sockets, and with nothing said but by us."""
    return {
        "http": partial(BoundedProtocol, connections=connections),
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }
