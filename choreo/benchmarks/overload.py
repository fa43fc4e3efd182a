"""What becomes of the orders when three times as many come as can be finished: an open loop."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from uuid import UUID

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.load import schedule
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.users import OrderMaker
from choreo.chassis.open_files import allow_many
from choreo.progress import Progress

TIMES = 3
_SECONDS = 30.0
_DEADLINE = 30.0
"""Seconds, as `CHOREO_DECIDE_WITHIN` has it by default."""
_RECOVERY_TIMEOUT_SECONDS = 90.0
_MOST_CONNECTIONS = 8000
"""Who finds none free opens one more: nobody waits for the answers of others."""
_OWN_FILES = 100
_ACCEPTED, _OVERLOADED = "202", "overloaded"


@dataclass(frozen=True)
class Overload:
    """Orders at `rate`, whether or not others are answered. Each is sent once, when it is due."""

    rate: float
    seconds: float
    """From the first to the last that was sent."""
    connections: int
    sent: int
    accepted: int
    turned_away: int
    """503 `overloaded`."""
    others: Mapping[str, int]
    """Any other answer by its status, or what came of the connection instead."""
    decided_in_time: int
    """By billing, before the order's deadline."""
    late: int
    """Decided afterwards, expired, or not at all."""
    slowest_decision_seconds: float
    slowest_answer_seconds: float


async def overload(
    makers: Sequence[OrderMaker],
    ports: Mapping[str, int],
    journals: Journals,
    sustained_rate: float,
    progress: Progress,
) -> Overload:
    rate = TIMES * sustained_rate
    times = schedule(rate, _SECONDS)
    answers: Counter[str] = Counter()
    accepted: list[UUID] = []
    idle: list[Connection] = []
    connections: list[Connection] = []
    free = asyncio.Semaphore(min(_MOST_CONNECTIONS, allow_many() - _OWN_FILES))
    slowest = 0.0
    start = time.time()

    async def send(request: bytes) -> None:
        nonlocal slowest
        sent = time.time()
        async with free:
            if not idle:
                idle.append(Connection(ports["order"]))
                connections.append(idle[-1])
            connection = idle.pop()
            try:
                answer = await connection.send(request)
                status = _OVERLOADED if b":overloaded" in answer.body else str(answer.status)
            except OSError as error:
                status = type(error).__name__
            idle.append(connection)
        answers[status] += 1
        slowest = max(slowest, time.time() - sent)
        if status == _ACCEPTED:
            accepted.append(UUID(answer.header("flow-id")))
        progress.step(f"overload at {rate:.0f} orders/s", answers.total(), len(times), time.time() - start)

    async with asyncio.TaskGroup() as tasks:
        for maker, at in zip(cycle(makers), times, strict=False):
            if (pause := start + at - time.time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(maker.next()))
        seconds = time.time() - start
    for connection in connections:
        connection.close()
    progress.stage("overload: until everything is decided")
    async with asyncio.timeout(_RECOVERY_TIMEOUT_SECONDS):
        while journals.undecided():  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(1.0)
    waits = journals.seconds_to_decide(accepted)
    in_time = sum(wait <= _DEADLINE for wait in waits)
    return Overload(
        round(rate, 1),
        round(seconds, 1),
        len(connections),
        len(times),
        len(accepted),
        answers[_OVERLOADED],
        {status: count for status, count in answers.items() if status not in (_ACCEPTED, _OVERLOADED)},
        in_time,
        len(accepted) - in_time,
        round(max(waits, default=0.0), 1),
        round(slowest, 1),
    )
