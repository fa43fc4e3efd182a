"""What an order takes and costs in each style, one style after the other and round after round."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from choreo.benchmarks.latency import Quantiles, delays, quantiles
from choreo.benchmarks.load import Placed, open_loop, schedule
from choreo.benchmarks.observe import Applied, Journals
from choreo.benchmarks.results.judged import judged, refuse_void
from choreo.benchmarks.sustained import sustained
from choreo.benchmarks.users import OrderMaker, register_users
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress
from choreo.styles.composition import COLLABORATION, STYLES

ROUNDS = 3
_USERS = 100
_RATE = 10.0
"""Orders a second while times are taken: what each of them can do."""
_WARM_UP_SECONDS = 3.0
_TIMEOUT_SECONDS = 60.0
_LOOK_AGAIN = 0.1


@dataclass(frozen=True)
class Round:
    """One style, once."""

    answered: Quantiles
    """Until the 202 was read."""
    decided: Quantiles
    """Until the order service committed the outcome."""
    notified: Quantiles
    """Until the notification was stored."""
    orders_per_second: float
    cpu_ms_per_order: float
    """Of all parts, without the load generator."""


@dataclass(frozen=True)
class Style:
    """Medians of the rounds."""

    rounds: int
    rate: float
    answered_p50_ms: float
    answered_p99_ms: float
    decided_p50_ms: float
    decided_p99_ms: float
    notified_p50_ms: float
    notified_p99_ms: float
    orders_per_second: float
    cpu_ms_per_order: float


async def measure(seconds: float, progress: Progress) -> dict[str, Style]:
    """Each round takes every style, on a system that is started for it."""
    rounds: dict[str, list[Round]] = {style: [] for style in STYLES}
    for number in range(1, ROUNDS + 1):
        for style in STYLES:
            progress.stage(f"{style}, {number} of {ROUNDS}: starting")
            rounds[style].append(await _round(style, seconds, progress))
    return {style: _medians(found) for style, found in rounds.items()}


async def _round(style: str, seconds: float, progress: Progress) -> Round:
    with ThrowawaySystem(style=style) as system:
        system.start()
        facts = system.run_file
        ports, journals = facts["ports"], Journals(facts["owner_urls"])
        makers = await register_users(_USERS, ports, progress.counting(f"{style}: users registered", _USERS))
        await _place(makers, ports, _WARM_UP_SECONDS)
        progress.stage(f"{style}: {_RATE:.0f} orders/s for {seconds:.0f} s")
        placed = await _place(makers, ports, seconds)
        pids = {**system.pids, "load generator": os.getpid()}
        found = await sustained(makers, ports, pids, journals, seconds, progress)
        if style == COLLABORATION:  # what publishes nothing cannot be judged by it
            refuse_void(await judged(facts, makers, progress))
        flows = [order.flow for order in placed]
        until = partial(delays, placed)
        return Round(
            answered=quantiles([order.accepted - order.scheduled for order in placed]),
            decided=quantiles(until(journals.when_committed("order", flows))),
            notified=quantiles(until(journals.when_committed("notification", flows))),
            orders_per_second=found.orders_per_second,
            cpu_ms_per_order=sum(
                ms for part, ms in found.cpu_ms_per_order.items() if part != "load generator"
            ),
        )


async def _place(makers: Sequence[OrderMaker], ports: Mapping[str, int], seconds: float) -> list[Placed]:
    """The orders, once all of them are decided and told. Raises TimeoutError."""
    orders: list[Placed] = []
    applied = [Applied(ports[service]) for service in ("order", "notification")]
    for one in applied:
        await one.begin()
    await open_loop(makers, ports["order"], schedule(_RATE, seconds), orders.append)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    for one in applied:
        while await one.count() < len(orders):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(orders)} orders were not told within {_TIMEOUT_SECONDS:.0f} s")
            await asyncio.sleep(_LOOK_AGAIN)
        one.close()
    return orders


def _medians(found: Sequence[Round]) -> Style:
    def median(value: Callable[[Round], float]) -> float:
        return round(statistics.median(map(value, found)), 1)

    return Style(
        len(found),
        _RATE,
        answered_p50_ms=median(lambda one: one.answered.p50_ms),
        answered_p99_ms=median(lambda one: one.answered.p99_ms),
        decided_p50_ms=median(lambda one: one.decided.p50_ms),
        decided_p99_ms=median(lambda one: one.decided.p99_ms),
        notified_p50_ms=median(lambda one: one.notified.p50_ms),
        notified_p99_ms=median(lambda one: one.notified.p99_ms),
        orders_per_second=median(lambda one: one.orders_per_second),
        cpu_ms_per_order=median(lambda one: one.cpu_ms_per_order),
    )
