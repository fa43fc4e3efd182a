"""How long one order takes while others come and go: an open loop at a fixed rate."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.load import Placed, open_loop, schedule
from choreo.benchmarks.observe import Applied, Journals, until, when_mailed
from choreo.benchmarks.users import OrderMaker
from choreo.progress import Progress

RATE = 50.0
_WARM_UP_SECONDS = 5.0
_SAMPLE_SECONDS = 5.0
_TICK = 0.1
_LOOK_AGAIN = 0.005
_WAIT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Quantiles:
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


@dataclass(frozen=True)
class Latency:
    """Open loop, Poisson arrivals. Every time is counted from the moment the order was due to be sent.

    What was stored is timed by Postgres: the moment of the COMMIT, before its fsync. One machine, one clock.
    """

    rate: float
    orders: int
    accepted: Quantiles
    """Until the 202 was read."""
    taken: Quantiles
    """Until the order service committed the order."""
    paid: Quantiles
    """Until billing committed the payment's outcome."""
    decided: Quantiles
    """Until the order service committed the order's status."""
    notified: Quantiles
    """Until the notification service committed the notification."""
    mailed: Quantiles
    """Until the broker had appended `NotificationSent`."""
    not_mailed: int
    """So many had no mail when that was given up; they count as if they had it then."""
    sample_notified: Quantiles
    """A cross-check: of every tenth order of a later run at the same rate the same figure ..."""
    sample_seen: Quantiles
    """... and until a client that asks GET /notifications again and again had read the answer with it."""


async def latency(
    makers: Sequence[OrderMaker],
    facts: Mapping[str, Any],
    journals: Journals,
    seconds: float,
    progress: Progress,
) -> Latency:
    """`facts` are those of run.json."""
    ports = facts["ports"]
    await _place_at_rate(makers, ports, _WARM_UP_SECONDS, "warm-up")
    placed = await _place_at_rate(makers, ports, seconds, f"latency at {RATE:.0f} orders/s", progress)
    flows = [order.flow for order in placed]
    sampled, seen = await _sample(makers, ports, progress)
    by_journal = journals.when_committed("notification", [order.flow for order in sampled])
    await until(lambda: not journals.unmailed(), _WAIT_TIMEOUT_SECONDS)
    mailed = await when_mailed(facts, min(order.scheduled for order in placed))
    stages, not_mailed = by_stage(placed, journals, mailed)
    return Latency(
        RATE,
        len(placed),
        **stages,
        not_mailed=not_mailed,
        taken=quantiles(delays(placed, journals.when_committed("order", flows, ["PlaceOrder"]))),
        paid=quantiles(delays(placed, journals.when_committed("billing", flows, ["OrderCreated"]))),
        sample_notified=quantiles(delays(sampled, by_journal)),
        sample_seen=quantiles(seen),
    )


def quantiles(seconds: Sequence[float]) -> Quantiles:
    """By nearest rank, so that each figure is one that occurred."""
    if not seconds:
        raise ValueError("nothing was measured")
    ordered = sorted(seconds)

    def rank(thousandths: int) -> float:
        return round(1000 * ordered[-(-thousandths * len(ordered) // 1000) - 1], 1)

    return Quantiles(len(ordered), rank(500), rank(900), rank(990), rank(999), rank(1000))


def by_stage(
    placed: Sequence[Placed], journals: Journals, mailed: Mapping[UUID, float] | None
) -> tuple[dict[str, Quantiles], int]:
    """Until each was accepted, decided, notified and mailed; and how many have no mail by now.

    Whoever has none counts as if it came now; None where mails are not looked at. Raises LookupError if an
    order was lost.
    """
    flows, now = [order.flow for order in placed], time.time()
    stages = {
        "accepted": quantiles([order.accepted - order.scheduled for order in placed]),
        "decided": quantiles(delays(placed, journals.when_committed("order", flows))),
        "notified": quantiles(delays(placed, journals.when_committed("notification", flows))),
    }
    if mailed is None:
        return stages, 0
    stages["mailed"] = quantiles([mailed.get(order.flow, now) - order.scheduled for order in placed])
    return stages, sum(flow not in mailed for flow in flows)


async def _place_at_rate(
    makers: Sequence[OrderMaker],
    ports: Mapping[str, int],
    seconds: float,
    what: str,
    progress: Progress | None = None,
) -> list[Placed]:
    """The orders, once all of them are notified."""
    applied = Applied(ports["notification"])
    await applied.begin()
    orders: list[Placed] = []
    times = schedule(RATE, seconds)
    since = time.monotonic()

    def placed(order: Placed) -> None:
        orders.append(order)
        if progress:
            progress.step(what, len(orders), len(times), time.monotonic() - since)

    await open_loop(makers, ports["order"], times, placed)
    await all_applied(applied, len(orders))
    return orders


async def _sample(
    makers: Sequence[OrderMaker], ports: Mapping[str, int], progress: Progress
) -> tuple[list[Placed], list[float]]:
    """Every tenth order, and after how many seconds its notification was seen by a client."""
    progress.stage("latency: asking for every tenth notification over HTTP")
    applied = Applied(ports["notification"])
    await applied.begin()
    count, sampled, lookers = 0, [], []

    def placed(order: Placed) -> None:
        nonlocal count
        count += 1
        if count % 10 == 0:
            sampled.append(order)
            lookers.append(asyncio.ensure_future(_seen(order, ports["notification"])))

    await open_loop(makers, ports["order"], schedule(RATE, _SAMPLE_SECONDS, seed=2), placed)
    seen = await asyncio.gather(*lookers)
    await all_applied(applied, count)
    return sampled, seen


async def _seen(order: Placed, port: int) -> float:
    connection = Connection(port)
    async with asyncio.timeout(_WAIT_TIMEOUT_SECONDS):
        while True:
            answer = await connection.request("GET", "/notifications?limit=5", headers=order.user.headers)
            if str(order.id).encode() in answer.body:
                connection.close()
                return time.time() - order.scheduled
            await asyncio.sleep(_LOOK_AGAIN)


def delays(placed: Sequence[Placed], when: Mapping[UUID, float]) -> list[float]:
    """Raises LookupError if one of the orders was lost."""
    return [when[order.flow] - order.scheduled for order in placed]


async def all_applied(applied: Applied, count: int) -> None:
    """Returns once there are so many. Raises TimeoutError after a minute."""
    async with asyncio.timeout(_WAIT_TIMEOUT_SECONDS):
        while await applied.count() < count:  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(_TICK)
    applied.close()
