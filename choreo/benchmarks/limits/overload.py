"""What becomes of the orders when three times as many come as can be finished: an open loop."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from choreo.benchmarks.load import ACCEPTED, TURNED_AWAY, Placed, Sent, schedule, send_when_due
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.users import OrderMaker, with_lasting_tokens
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


@dataclass(frozen=True)
class Overload:
    """Orders at `rate`, whether or not others are answered. Each is sent once, when it is due."""

    rate: float
    seconds: float
    """In which orders were due."""
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
    await with_lasting_tokens(makers, ports["user"])
    rate = TIMES * sustained_rate
    times = schedule(rate, _SECONDS)
    answers: Counter[str] = Counter()
    accepted: list[Placed] = []
    slowest = 0.0
    start = time.time()

    def ended(sent: Sent) -> None:
        nonlocal slowest
        slowest = max(slowest, sent.ended - sent.due)
        answers[sent.outcome] += 1
        if sent.outcome == ACCEPTED:
            accepted.append(sent.placed())
        progress.step(f"overload at {rate:.0f} orders/s", answers.total(), len(times), time.time() - start)

    most_connections = min(_MOST_CONNECTIONS, allow_many() - _OWN_FILES)
    connections = await send_when_due(makers, ports["order"], times, ended, most_connections)
    progress.stage("overload: until everything is decided")
    async with asyncio.timeout(_RECOVERY_TIMEOUT_SECONDS):
        while journals.undecided():  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(1.0)
    waits = journals.seconds_to_decide([order.flow for order in accepted])
    in_time = sum(wait <= _DEADLINE for wait in waits)
    return Overload(
        round(rate, 1),
        _SECONDS,
        connections,
        len(times),
        len(accepted),
        answers[TURNED_AWAY],
        {status: count for status, count in answers.items() if status not in (ACCEPTED, TURNED_AWAY)},
        in_time,
        len(accepted) - in_time,
        round(max(waits, default=0.0), 1),
        round(slowest, 1),
    )
