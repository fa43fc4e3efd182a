"""What becomes of the orders when three times as many come as can be finished: an open loop."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from uuid import UUID

from benchmarks.connection import Connection
from benchmarks.load import MOST_CONNECTIONS, schedule
from benchmarks.observe import Journals
from benchmarks.users import OrderMaker
from choreo.progress import Progress

TIMES = 3
_SECONDS = 30.0
_DEADLINE = 30.0
"""Seconds, as `CHOREO_DECIDE_WITHIN` has it by default."""
_PATIENCE = 90.0


@dataclass(frozen=True)
class Overload:
    """Orders at `rate`, whether or not they are answered. Each is sent once, when it is due or later."""

    rate: float
    seconds: float
    sent: int
    accepted: int
    turned_away: int
    """503 `overloaded`."""
    other: int
    """Any other answer, or none."""
    decided_in_time: int
    """By billing, before the order's deadline."""
    late: int
    """Decided afterwards, expired, or not at all."""
    slowest_decision_seconds: float


async def overload(
    makers: Sequence[OrderMaker],
    ports: Mapping[str, int],
    journals: Journals,
    sustained_rate: float,
    progress: Progress,
) -> Overload:
    rate = TIMES * sustained_rate
    times = schedule(rate, _SECONDS)
    answers: Counter[int] = Counter()
    accepted: dict[UUID, float] = {}
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(MOST_CONNECTIONS):
        idle.put_nowait(Connection(ports["order"]))
    start = time.time()

    async def send(request: bytes) -> None:
        connection = await idle.get()
        try:
            answer = await connection.send(request)
        except ConnectionError:
            answers[0] += 1
            return
        finally:
            idle.put_nowait(connection)
        overloaded = answer.status == 503 and b":overloaded" in answer.body
        answers[answer.status if answer.status == 202 or overloaded else 0] += 1
        if answer.status == 202:
            accepted[UUID(answer.header("flow-id"))] = time.time()
        progress.step(f"overload at {rate:.0f} orders/s", answers.total(), len(times), time.time() - start)

    async with asyncio.TaskGroup() as tasks:
        for maker, at in zip(cycle(makers), times, strict=False):
            if (pause := start + at - time.time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(maker.next()))
    seconds = time.time() - start
    while not idle.empty():
        idle.get_nowait().close()
    progress.stage("overload: until everything is decided")
    async with asyncio.timeout(_PATIENCE):
        while journals.undecided():  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(1.0)
    decided = journals.when_committed("order", list(accepted))
    waits = [decided[flow] - taken for flow, taken in accepted.items() if flow in decided]
    in_time = sum(wait <= _DEADLINE for wait in waits)
    return Overload(
        round(rate, 1),
        round(seconds, 1),
        len(times),
        len(accepted),
        answers[503],
        answers[0],
        in_time,
        len(accepted) - in_time,
        round(max(waits, default=0.0), 1),
    )
