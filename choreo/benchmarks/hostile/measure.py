"""What a customer notices of one stranger who wants the shop for himself."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from choreo.benchmarks.connection import Answer, Connection
from choreo.benchmarks.hostile.stranger import WAYS
from choreo.benchmarks.users import OVERLOADED, OrderMaker, Refused
from choreo.progress import Progress

USERS = 41
"""The customer, and forty in whose names streams are opened: of one user fifty may be open."""
_SECONDS = 15.0
_SETTLE_SECONDS = 3.0
_READS_PER_SECOND = 20
_READS_TO_AN_ORDER = 4
_ANSWER_TIMEOUT_SECONDS = 30.0
QUIET = "nobody"


@dataclass(frozen=True)
class Hostile:
    """Reads and orders of a customer, each on a connection of its own, while a stranger does this."""

    what: str
    p50_ms: float
    p99_ms: float
    """Of `GET /orders`. One that is not answered counts as the time it was waited for."""
    reads_failed: int
    orders: int
    turned_away: int
    """503 `overloaded`."""
    orders_failed: Mapping[str, int]
    """Any other 5xx by its status, or what came of the connection instead."""
    stranger_got: Mapping[str, int]
    """By status."""


async def hostile(
    makers: Sequence[OrderMaker], ports: Mapping[str, int], progress: Progress
) -> list[Hostile]:
    """Quiet first, then each way to be hostile."""
    customer, *others = makers
    users = [{"token": maker.user.token, "order": await _placed(maker, ports)} for maker in others]
    found = [await _measured(QUIET, customer, ports, progress)]
    for what in WAYS:
        command = [sys.executable, "-m", "choreo.benchmarks.hostile.stranger", what]
        pipe = asyncio.subprocess.PIPE
        stranger = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert stranger.stdin is not None and stranger.stdout is not None
        try:
            stranger.stdin.write(json.dumps({"ports": dict(ports), "users": users}).encode() + b"\n")
            await stranger.stdout.readline()
            await asyncio.sleep(_SETTLE_SECONDS)
            measured = await _measured(what, customer, ports, progress)
            stranger.stdin.close()
            got = json.loads(await stranger.stdout.readline())
        finally:
            if stranger.returncode is None:
                stranger.kill()
            await stranger.wait()
        found.append(Hostile(**{**measured.__dict__, "stranger_got": got}))
    return found


async def _placed(maker: OrderMaker, ports: Mapping[str, int]) -> str:
    connection, request = Connection(ports["order"]), maker.next()
    answer = await connection.send(request)
    maker.answered(request, answer)
    connection.close()
    if answer.status != 202:
        raise Refused(f"an order was answered with {answer.status}")
    return str(answer.json()["id"])


async def _measured(what: str, customer: OrderMaker, ports: Mapping[str, int], progress: Progress) -> Hostile:
    times: list[float] = []
    failed = 0
    orders: Counter[str] = Counter()

    async def read() -> None:
        nonlocal failed
        since = time.monotonic()
        status, _ = await _asked(ports["order"], customer.user.headers)
        times.append(time.monotonic() - since)
        failed += status != "200"

    async def order() -> None:
        status, body = await _asked(ports["order"], customer)
        orders["overloaded" if OVERLOADED in body else status] += 1

    count = int(_SECONDS * _READS_PER_SECOND)
    start = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            if (pause := start + number / _READS_PER_SECOND - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(read())
            if number % _READS_TO_AN_ORDER == 0:
                tasks.create_task(order())
            progress.step(f"hostile: {what}", number, count, time.monotonic() - start)
    times.sort()
    return Hostile(
        what,
        round(1000 * times[len(times) // 2], 2),
        round(1000 * times[ceil(0.99 * len(times)) - 1], 2),
        failed,
        orders.total(),
        orders["overloaded"],
        {status: number for status, number in orders.items() if status not in ("202", "overloaded")},
        {},
    )


async def _asked(port: int, asked: Any) -> tuple[str, bytes]:
    """The status, or what came of the connection instead; and the body."""
    connection = Connection(port)
    request = asked.next() if isinstance(asked, OrderMaker) else None
    answer: Answer | OSError
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            if request:
                answer = await connection.send(request)
            else:
                answer = await connection.request("GET", "/orders", b"", asked)
    except OSError as error:  # a time-out is one
        answer = error
    finally:
        connection.close()
    if request:
        asked.answered(request, answer)
    if isinstance(answer, OSError):
        return type(answer).__name__, b""
    return str(answer.status), answer.body
