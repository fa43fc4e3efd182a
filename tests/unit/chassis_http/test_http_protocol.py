"""A running server: no connection lasts without asking, is read without end, or keeps others out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from structlog.testing import capture_logs

from choreo.chassis.http import protocol
from choreo.chassis.http.protocol import BoundedProtocol, Connections

PATIENCE = 20.0
GET = b"GET /health/live HTTP/1.1\r\nHost: toy\r\n\r\n"
HALF = GET[:-2]

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Peer]]


@pytest_asyncio.fixture
async def connect(toy: Any) -> AsyncIterator[Connect]:
    """To the toy, which takes eight connections."""
    async with served(toy) as connect:
        yield connect


@asynccontextmanager
async def served(toy: Any) -> AsyncIterator[Connect]:
    connections = Connections(8, toy.metrics.registry)
    config = uvicorn.Config(
        toy.app,
        port=0,
        http=partial(BoundedProtocol, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    async with AsyncExitStack() as stack:
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        stack.push_async_callback(server.shutdown)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def connect() -> Peer:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            return reader, writer

        yield connect


async def answer(peer: Peer, request: bytes) -> tuple[int, bytes]:
    peer[1].write(request)
    return await read_answer(peer)


async def read_answer(peer: Peer) -> tuple[int, bytes]:
    async with asyncio.timeout(PATIENCE):
        head = await peer[0].readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await peer[0].readexactly(length)


async def is_closed(peer: Peer) -> bytes:
    """Once it is, with what was said before."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await peer[0].read()
        except ConnectionResetError:
            return b""


def closed(toy: Any) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for metric in toy.metrics.registry.collect()
        if metric.name == "choreo_http_connections_closed"
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


@pytest.mark.parametrize(
    "said", [b"", b"G", HALF, GET + HALF, GET + b"\r\n"], ids=["silent", "begun", "half", "second", "newline"]
)
async def test_a_head_that_does_not_come_ends_the_connection(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    peer = await connect()
    if said.startswith(GET):
        assert (await answer(peer, GET))[0] == 200
    peer[1].write(said.removeprefix(GET))
    with capture_logs() as lines:
        assert await is_closed(peer) == b""
    assert closed(toy) == {"head": 1}
    assert [line["reason"] for line in lines if line["log_level"] == "warning"] == ["head"]


@pytest.mark.parametrize("length", [b"Content-Length: 9999", b"Transfer-Encoding: chunked"])
async def test_a_body_has_to_come_at_some_rate(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.05)
    peer = await connect()
    peer[1].write(b"POST /login HTTP/1.1\r\nHost: toy\r\n" + length + b"\r\n\r\n5\r\nhello\r\n")
    assert await is_closed(peer) == b""
    assert (closed(toy), toy.calls) == ({"body": 1}, [])


async def test_who_is_being_answered_or_is_between_two_requests_is_left_alone(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, waiting = await connect(), await connect()
    assert (await answer(idle, GET))[0] == 200
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def look(*asked: Any) -> bool:
        looking.set()
        await go_on.wait()
        return True

    monkeypatch.setattr(toy, "_flow_applied", look)
    token = toy.headers["Authorization"].encode()
    flow = b"00000000-0000-4000-8000-000000000000"
    head = b"GET /things?limit=1&wait=9&flow=%b HTTP/1.1\r\nHost: toy\r\nAuthorization: %b\r\n\r\n"
    waiting[1].write(head % (flow, token))
    await looking.wait()
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.05)
    silent = await connect()
    await is_closed(silent)
    assert closed(toy) == {"head": 1}
    go_on.set()
    assert (await read_answer(waiting))[0] == 200
    assert (await answer(idle, GET))[0] == 200


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /health/live HTTP/1.1\r\nHost: toy\r\nX: ",
        b"GET /",
        b"POST /login HTTP/1.1\r\nHost: toy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["header", "path", "trailer"],
)
async def test_nobody_reads_a_head_without_end(toy: Any, connect: Connect, begin: bytes) -> None:
    peer = await connect()
    peer[1].write(begin)
    written = 0
    try:
        while written < 64 * protocol.MOST_HEAD_BYTES:
            peer[1].write(b"y" * 65_536)
            await peer[1].drain()
            written += 65_536
    except ConnectionError:
        pass
    assert written < 64 * protocol.MOST_HEAD_BYTES
    said = await is_closed(peer)
    assert said == b"" or b" 431 " in said
    assert closed(toy) == {"size": 1}


async def test_of_many_headers_few_are_read(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counted(self: BoundedProtocol, name: bytes, value: bytes) -> None:
        nonlocal read
        read += 1
        on_header(self, name, value)

    on_header = BoundedProtocol.on_header
    monkeypatch.setattr(BoundedProtocol, "on_header", counted)
    peer = await connect()
    status, body = await answer(peer, HALF + b"a: b\r\n" * 20_000 + b"\r\n")
    assert (status, b"headers_too_large" in body) == (431, True)
    await is_closed(peer)
    assert (closed(toy), read) == ({"size": 1}, protocol.MOST_HEADERS + 1)
    assert (await answer(await connect(), HALF + b"a: b\r\n" * 150 + b"\r\n"))[0] == 431
    assert closed(toy) == {"size": 1}


async def test_a_head_a_little_too_large_is_told_so_and_a_large_body_is_no_head(
    toy: Any, connect: Connect
) -> None:
    peer = await connect()
    status, body = await answer(peer, HALF + b"X: " + b"y" * 40_000 + b"\r\n\r\n")
    assert (status, b"headers_too_large" in body) == (431, True)
    peer = await connect()
    form = b"username=ann&password=" + b"p" * 60_000
    head = b"POST /login HTTP/1.1\r\nHost: toy\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(form) + form
    for _ in range(3):
        assert (await answer(peer, request + HALF))[0] == 200
        assert (await answer(peer, b"\r\n"))[0] == 200


async def test_a_newcomer_gets_in_and_who_has_asked_nothing_for_longest_goes(
    toy: Any, connect: Connect
) -> None:
    silent = [await connect() for _ in range(7)]
    assert (await answer(silent[0], GET))[0] == 200  # and so it is the youngest
    asking = await connect()
    assert (await answer(asking, GET))[0] == 200
    newcomer = await connect()
    assert (await answer(newcomer, GET))[0] == 200
    await is_closed(silent[1])
    assert closed(toy) == {"many": 1}
    for peer in (*silent[2:], silent[0], asking):
        assert (await answer(peer, GET))[0] == 200


async def test_who_comes_back_again_and_again_is_closed_at_a_pace_and_twice_as_many_are_the_end(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSED_AT_ONCE", 1)
    monkeypatch.setattr(protocol, "_AT_ONCE_SECONDS", 3600.0)
    silent = [await connect() for _ in range(17)]
    newcomer = await connect()
    assert (await answer(newcomer, GET))[0] == 200
    await is_closed(silent[0])
    await is_closed(silent[1])
    assert closed(toy) == {"many": 2}, "for the ninth, and for the eighteenth"
    for peer in silent[2:]:
        assert (await answer(peer, GET))[0] == 200


async def test_a_deadline_that_passes_for_many_at_once_closes_a_few_and_then_the_others(
    toy: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "CLOSED_AT_ONCE", 2)
    for silent in [await connect() for _ in range(8)]:
        assert await is_closed(silent) == b""
    assert closed(toy) == {"head": 8}


@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"upgrade"])
async def test_an_upgrade_is_ignored_and_the_body_is_read(
    toy: Any, connect: Connect, connection: bytes
) -> None:
    peer = await connect()
    form = b"username=ann&password=long+enough"
    upgrade = b"Connection: %b\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n" % connection
    head = (
        b"POST /login HTTP/1.1\r\nHost: toy\r\nContent-Type: application/x-www-form-urlencoded\r\n" + upgrade
    )
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(form), form)
    sized = b"Content-Length: %d\r\n\r\n%b" % (len(form), form)
    for body in (sized, chunked, sized):
        assert (await answer(peer, head + body))[0] == 200
        assert toy.calls.pop()["form"].password == "long enough"
    for part in (head + sized[:-5], sized[-5:]):
        peer[1].write(part)
        await peer[1].drain()
    assert (await read_answer(peer))[0] == 200
    assert (await answer(peer, HALF + upgrade + b"\r\n" + GET))[0] == 200
    assert (await read_answer(peer))[0] == 200


async def test_what_is_no_http_is_told_so_as_a_problem(toy: Any, connect: Connect) -> None:
    status, body = await answer(await connect(), b"no such thing\r\n\r\n")
    assert (status, b"urn:choreo:problem:malformed_request" in body) == (400, True)
    peer = await connect()
    peer[1].write(b"CONNECT /things HTTP/1.1\r\nHost: toy\r\n\r\nx")
    assert b" 405 " in await is_closed(peer)


FORM = b"grant_type=password&username=ada&password=b"
HIDDEN = b"GET /things HTTP/1.1\r\nHost: toy\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
        b"Content-Length: %d\r\nContent-Length: 5\r\n",
        b"Content-Length: +%d\r\n",
        b"Content-Length: %d, %d\r\n",
        b"Content-Length : %d\r\n",
        b"Transfer-Encoding: chunked, identity\r\nX: %d\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n",
        b"X: 1\nContent-Length: %d\r\n",
        b" Content-Length: %d\r\n",
        b"Content-Length: %d\r\n folded: 1\r\n",
    ],
)
async def test_no_request_is_hidden_in_anothers_body(toy: Any, connect: Connect, head: bytes) -> None:
    """Whatever two servers could read in two ways ends the connection, or is read in one."""
    peer = await connect()
    length = (len(HIDDEN),) * head.count(b"%d")
    body = b"0\r\n\r\n" if b": chunked" in head else b""
    peer[1].write(b"POST /login HTTP/1.1\r\nHost: toy\r\n" + head % length + b"\r\n" + body + HIDDEN)
    peer[1].write_eof()
    said = await is_closed(peer)
    assert said.count(b"HTTP/1.1 ") <= 1, said
    assert b" 2" not in said[:12], said


@pytest.mark.parametrize("size", [b"-1", b"0x5", b"5 ;", b"FFFFFFFFFFFFFFFFF", b"5\n", b"", b"+5"])
async def test_a_chunk_has_a_size_or_the_connection_ends(toy: Any, connect: Connect, size: bytes) -> None:
    peer = await connect()
    peer[1].write(
        b"POST /login HTTP/1.1\r\nHost: toy\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabcde\r\n"
    )
    peer[1].write(b"0\r\n\r\n" + GET)
    peer[1].write_eof()
    assert b" 200 " not in await is_closed(peer)


async def test_a_thousand_requests_in_one_breath_are_answered_in_order(connect: Connect) -> None:
    peer = await connect()
    peer[1].write(GET * 999 + HALF + b"Connection: close\r\n\r\n")
    said = await is_closed(peer)
    assert said.count(b"HTTP/1.1 200 OK") == 1000


async def test_head_of_a_stream_ends(toy: Any, connect: Connect) -> None:
    peer = await connect()
    peer[1].write(b"HEAD /half HTTP/1.1\r\nHost: toy\r\n\r\n" + GET)
    said = b""
    async with asyncio.timeout(PATIENCE):
        while said.count(b" 200 OK") < 2:
            said += await peer[0].read(4096)
    assert b"half" not in said


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"http://toy/things", 401),
        (b"http://evil.example/things", 401),
        (b"/%74hings", 401),
        (b"//things", 404),
        (b"/things/", 404),
        (b"/THINGS", 404),
        (b"/./things", 404),
        (b"/health/live/../../things", 404),
        (b"/health/live/..%2f..%2fthings", 404),
        (b"/health/live;/things", 404),
        (b"/health/live%00/things", 404),
        (b"/health/live%0d%0ax", 404),
        (b"/docs/assets/../../../../../../etc/passwd", 404),
        (b"/docs/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", 404),
        (b"/docs/assets//etc/passwd", 404),
        (b"*", 404),
        (b"things", 400),
    ],
)
async def test_no_spelling_of_a_path_leads_past_the_token(connect: Connect, path: bytes, status: int) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: toy\r\n\r\n" % path
    assert (await answer(await connect(), request))[0] == status


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"X-Method-Override", b"X-Original-Method"])
async def test_a_request_has_the_method_it_says(toy: Any, connect: Connect, name: bytes) -> None:
    peer = await connect()
    assert (await answer(peer, HALF + name + b": DELETE\r\n\r\n"))[0] == 200
    hidden = b"X-Original-URL: /health/live\r\nX-Rewrite-URL: /health/live\r\n" + name + b": GET\r\n"
    assert (await answer(peer, HALF.replace(b"/health/live", b"/things") + hidden + b"\r\n"))[0] == 401
    for method in (b"PATCH", b"PROPFIND", b"DELETE", b"PUT", b"OPTIONS", b"TRACE"):
        assert (await answer(peer, GET.replace(b"GET", method)))[0] == 405
    status, _ = await answer(await connect(), GET.replace(b"GET", b"get"))
    assert status in (400, 405)
    assert toy.calls == []
