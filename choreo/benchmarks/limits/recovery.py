"""How soon as many orders are finished again as before, after each service got a SIGKILL: an open loop."""

import asyncio
import os
import signal
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from choreo.benchmarks.load import ACCEPTED, Placed, Sent, send_when_due
from choreo.benchmarks.observe import Journals, until
from choreo.benchmarks.users import OrderMaker, Refused, with_lasting_tokens
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress

AGAIN = 0.9
"""This share of what was finished before is as before."""
WINDOW_SECONDS = 1.0
_WARM_UP_SECONDS = 3.0
_BEFORE_SECONDS = 5.0
_AFTER_SECONDS = 22.0
_MOST_CONNECTIONS = 512
_REST_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Recovery:
    """Orders are due evenly and are sent whether or not others are answered. One is finished once it is both
    decided and notified, by Postgres' clock at the COMMIT.
    """

    service: str
    """Which got the SIGKILL. What runs the system starts it again."""
    rate: float
    before_per_second: float
    """Finished in the five seconds before."""
    again_after_seconds: float | None
    """From the SIGKILL until the first second begins in which 90 % as many are finished. None: not while the
    load went on.
    """
    nothing_for_seconds: float
    """The longest time after it in which no order was finished."""
    slowest_order_seconds: float
    """From when an order was due until it was finished, of all that were accepted."""
    failed: Mapping[str, int]
    """Orders that were not accepted, by status or by what came of the connection instead."""


async def recoveries(
    system: ThrowawaySystem, rate: float, makers: Sequence[OrderMaker], journals: Journals, progress: Progress
) -> list[Recovery]:
    """Of one service after the other. Raises `Refused` where one does not come back."""
    found = []
    for service in system.run_file["own_ports"]:
        await with_lasting_tokens(makers, system.run_file["ports"]["user"])
        found.append(await _recovery(system, service, rate, makers, journals, progress))
        progress.stage(f"recovery of {service}: until everything is decided and mailed")
        if await until(lambda: _is_at_rest(journals), _REST_TIMEOUT_SECONDS) is None:
            raise Refused(f"what was ordered around the SIGKILL of {service} was not finished in time")
    return found


def _is_at_rest(journals: Journals) -> bool:
    return not journals.undecided() and not journals.unmailed()


async def _recovery(
    system: ThrowawaySystem,
    service: str,
    rate: float,
    makers: Sequence[OrderMaker],
    journals: Journals,
    progress: Progress,
) -> Recovery:
    before = _WARM_UP_SECONDS + _BEFORE_SECONDS
    times = evenly(rate, before + _AFTER_SECONDS)
    placed: list[Placed] = []
    failed: Counter[str] = Counter()
    start = time.time()

    def ended(sent: Sent) -> None:
        if sent.outcome == ACCEPTED:
            placed.append(sent.placed())
        else:
            failed[sent.outcome] += 1
        what = f"recovery of {service} at {rate:.0f} orders/s"
        progress.step(what, len(placed) + failed.total(), len(times), time.time() - start)

    async def kill() -> float:
        await asyncio.sleep(before)
        old = system.run_file["pids"][service]
        killed = time.time()
        os.kill(old, signal.SIGKILL)
        if await until(lambda: system.run_file["pids"][service] not in (old, None), _AFTER_SECONDS) is None:
            raise Refused(f"{service} was not started again")
        return killed

    killing = asyncio.ensure_future(kill())
    try:
        await send_when_due(makers, system.run_file["ports"]["order"], times, ended, _MOST_CONNECTIONS)
        killed = await killing
    finally:
        killing.cancel()
    await until(lambda: not journals.undecided(), _REST_TIMEOUT_SECONDS)
    finished, end = journals.when_finished(start), start + before + _AFTER_SECONDS
    moments = sorted(finished.values())
    took = [finished[order.flow] - order.scheduled for order in placed if order.flow in finished]
    return Recovery(
        service,
        round(rate, 1),
        round(between(moments, killed - _BEFORE_SECONDS, killed) / _BEFORE_SECONDS, 1),
        again_after(moments, killed, end),
        longest_gap(moments, killed, end),
        round(max(took, default=0.0), 2),
        dict(failed),
    )


def evenly(rate: float, seconds: float) -> list[float]:
    """When to send, in seconds from the start: what is finished in a second then tells of the system."""
    return [number / rate for number in range(int(rate * seconds))]


def again_after(moments: Sequence[float], killed: float, end: float) -> float | None:
    """`moments` are those at which something was finished, in their order."""
    wanted = AGAIN * between(moments, killed - _BEFORE_SECONDS, killed) / _BEFORE_SECONDS * WINDOW_SECONDS
    first = bisect_left(moments, killed)
    for begin in (killed, *moments[first:]):
        if begin + WINDOW_SECONDS > end:
            break
        if between(moments, begin, begin + WINDOW_SECONDS) >= wanted:
            return round(begin - killed, 2)
    return None


def longest_gap(moments: Sequence[float], killed: float, end: float) -> float:
    ends = [killed, *moments[bisect_left(moments, killed) : bisect_left(moments, end)], end]
    return round(max(later - earlier for earlier, later in pairwise(ends)), 2)


def between(moments: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(moments, end) - bisect_left(moments, begin)
