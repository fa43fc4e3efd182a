"""One stranger who wants the shop for himself: a process of its own, at the lowest priority.

python -m choreo.benchmarks.hostile.stranger WHAT < what it needs to know, as JSON

Says "ready" once it does what it came for, and ends when its standard input does, or after `_MOST_SECONDS`.
Everything is bounded and goes to this machine.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from choreo.benchmarks.connection import Connection
from choreo.chassis.open_files import allow_many

HEADERS = 20_000
IDLE = 5_000
STREAMS = 2_000
LOGINS = 100
_MOST_SECONDS = 120.0
_AT_ONCE = 8
_TRY_AGAIN_SECONDS = 0.5
_HOST = "127.0.0.1"

Told = dict[str, Any]


async def headers(told: Told, came: Counter[str]) -> None:
    """Requests with 20,000 headers of one name, one after the other on each of a few connections."""
    head = b"GET /orders HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a: b\r\n" * HEADERS + b"\r\n"
    await _each(range(_AT_ONCE), lambda _: _for_ever(lambda: _send(told["ports"]["order"], head), came))


async def idle(told: Told, came: Counter[str]) -> None:
    """Connections that say nothing; one that is closed is opened again."""

    async def silent() -> str:
        reader, writer = await asyncio.open_connection(_HOST, told["ports"]["order"])
        try:
            await reader.read(1)
            return "closed"
        finally:
            writer.close()

    await _each(range(min(IDLE, allow_many() - 100)), lambda _: _for_ever(silent, came))


async def streams(told: Told, came: Counter[str]) -> None:
    """Event streams about orders that may still change, of forty users, so that none is refused."""
    await _stream(told["ports"]["order"], told["users"], came)


async def streams_of_one(told: Told, came: Counter[str]) -> None:
    """As many in the name of one user; one that is refused is asked for again."""
    await _stream(told["ports"]["order"], told["users"][:1], came)


async def _stream(port: int, users: Sequence[Told], came: Counter[str]) -> None:
    async def stream(user: Told) -> str:
        reader, writer = await asyncio.open_connection(_HOST, port)
        try:
            head = f"GET /orders/{user['order']}/events HTTP/1.1\r\nHost: {_HOST}\r\n"
            writer.write(f"{head}Authorization: Bearer {user['token']}\r\n\r\n".encode())
            status = (await reader.readline()).split(b" ")[1].decode()
            while status == "200" and await reader.read(65_536):
                pass
            return status
        finally:
            writer.close()

    everybody = list(islice(cycle(users), min(STREAMS, allow_many() - 100)))
    await _each(everybody, lambda user: _for_ever(lambda: stream(user), came))


async def logins(told: Told, came: Counter[str]) -> None:
    """Random logins, as fast as they are answered."""

    async def log_in(connection: Connection) -> str:
        form = urlencode({"grant_type": "password", "username": uuid4().hex, "password": "wrong"}).encode()
        types = {"Content-Type": "application/x-www-form-urlencoded"}
        return str((await connection.request("POST", "/token", form, types)).status)

    connections = [Connection(told["ports"]["user"]) for _ in range(LOGINS)]
    await _each(connections, lambda connection: _for_ever(lambda: log_in(connection), came))


WAYS: dict[str, Callable[[Told, Counter[str]], Awaitable[None]]] = {
    "headers": headers,
    "idle connections": idle,
    "streams": streams,
    "streams of one": streams_of_one,
    "logins": logins,
}


async def _send(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        writer.write(request)
        line = await reader.readline()
        return line.split(b" ")[1].decode() if line else "closed"
    finally:
        writer.close()


async def _for_ever(once: Callable[[], Awaitable[str]], came: Counter[str]) -> None:
    while True:
        try:
            came[await once()] += 1
        except OSError as error:
            came[type(error).__name__] += 1
            await asyncio.sleep(_TRY_AGAIN_SECONDS)


async def _each(them: Sequence[Any], does: Callable[[Any], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for one in them:
            tasks.create_task(does(one))  # type: ignore[arg-type]


async def _main(what: str) -> None:
    os.nice(19)
    told: Told = json.loads(sys.stdin.readline())
    came: Counter[str] = Counter()
    work = asyncio.ensure_future(WAYS[what](told, came))
    print("ready", flush=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(_MOST_SECONDS):
            await asyncio.to_thread(sys.stdin.read)
    work.cancel()
    print(json.dumps(came), flush=True)
    os._exit(0)  # thousands of connections need not be closed one by one


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
