"""How long an order takes at one load after the other: an open loop at given rates."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.benchmarks.charts.curves import Curve, curves
from choreo.benchmarks.latency import Quantiles, all_applied, by_stage
from choreo.benchmarks.load import ACCEPTED, TURNED_AWAY, Placed, Sent, schedule, send_when_due
from choreo.benchmarks.observe import Applied, Journals, until, when_mailed
from choreo.benchmarks.resources import cpu_seconds
from choreo.benchmarks.users import OrderMaker, Refused, with_lasting_tokens
from choreo.progress import Progress

_USUAL = (50, 100, 200, 400, 800, 1600, 3200, 6400)
"""The same in every run, so that runs can be compared."""
_WARM_UP_SECONDS = 3.0
_MOST_CONNECTIONS = 512
"""Few are needed below what is sustained: each opens only where no other is free."""
_TIMEOUT_SECONDS = 60.0
_DRAWN = {"accepted": "202", "decided": "decided", "notified": "notified", "mailed": "mailed"}
_DASHES = {"p50_ms": ("p50", ""), "p99_ms": ("p99", "7 4"), "p999_ms": ("p99.9", "2 3")}


@dataclass(frozen=True)
class AtRate:
    """Open loop, Poisson arrivals. Delays are of accepted orders, from when each was due to be sent: what
    came too late to be sent in time waits longer, and none is left out (coordinated omission).
    """

    rate: float
    seconds: float
    sent: int
    accepted: int
    turned_away: int
    """503 `overloaded`."""
    others: Mapping[str, int]
    """Any other answer by its status, or what came of the connection instead."""
    mails_waiting_at_begin: int
    """Of the rate before, where they were not sent in time."""
    drained_after_seconds: float
    """From the last answer until all were decided and notified: long where a queue has grown."""
    mails_drained_after_seconds: float | None
    """The same until all were mailed. None: not in time, or the mailer was held."""
    delays: Mapping[str, Quantiles]
    """Until it was accepted, decided, notified and, but for a mailer that was held, mailed."""
    not_mailed: int
    """So many had no mail after a minute; they count as if they had it then."""
    cpu_ms_per_order: Mapping[str, float]
    """By part, and of the load generator, from the first order until the last was decided, notified and
    mailed.
    """


def usual_rates(sustained: float) -> list[float]:
    """Those below what is sustained; at least one."""
    return [rate for rate in _USUAL if rate < sustained] or [_USUAL[0]]


async def at_rates(
    rates: Sequence[float],
    makers: Sequence[OrderMaker],
    facts: Mapping[str, Any],
    pids: Mapping[str, int],
    journals: Journals,
    seconds: float,
    progress: Progress,
) -> dict[str, AtRate]:
    """By rate, from the least to the most. `facts` are those of run.json. Raises `Refused`, LookupError or
    TimeoutError.
    """
    ascending = sorted(set(rates))
    await at_rate(ascending[0], makers, facts, pids, journals, _WARM_UP_SECONDS, progress)
    return {
        f"{rate:g}": await at_rate(rate, makers, facts, pids, journals, seconds, progress)
        for rate in ascending
    }


async def at_rate(
    rate: float,
    makers: Sequence[OrderMaker],
    facts: Mapping[str, Any],
    pids: Mapping[str, int],
    journals: Journals,
    seconds: float,
    progress: Progress,
    *,
    mailed: bool = True,
) -> AtRate:
    """Not `mailed` where the mailer is held."""
    await with_lasting_tokens(makers, facts["ports"]["user"])
    times, what = schedule(rate, seconds), f"open loop at {rate:g} orders/s"
    waiting = journals.pending_mails()
    applied = Applied(facts["ports"]["notification"])
    await applied.begin()
    outcomes: Counter[str] = Counter()
    accepted: list[Placed] = []
    since, cpu_before = time.monotonic(), cpu_seconds(pids)

    def ended(sent: Sent) -> None:
        outcomes[sent.outcome] += 1
        if sent.outcome == ACCEPTED:
            accepted.append(sent.placed())
        progress.step(what, outcomes.total(), len(times), time.monotonic() - since)

    await send_when_due(makers, facts["ports"]["order"], times, ended, _MOST_CONNECTIONS)
    if not accepted:
        raise Refused(f"none of {len(times)} orders at {rate:g}/s was accepted")
    last, mails_drained = time.monotonic(), None
    await all_applied(applied, len(accepted))
    flows = [order.flow for order in accepted]
    # An order that expired under a backlog has more notifications than one, which are counted for another's.
    await until(
        lambda: all(journals.has_all(name, flows) for name in ("order", "notification")), _TIMEOUT_SECONDS
    )
    drained = time.monotonic() - last
    if mailed:
        progress.stage(f"{what}: sending the mails that wait ({journals.pending_mails()})")
        if await until(lambda: not journals.unmailed(), _TIMEOUT_SECONDS) is not None:
            mails_drained = round(time.monotonic() - last, 2)
    cpu = cpu_seconds(pids)
    published = await when_mailed(facts, min(order.scheduled for order in accepted)) if mailed else None
    delays, not_mailed = by_stage(accepted, journals, published)
    return AtRate(
        rate,
        seconds,
        len(times),
        len(accepted),
        outcomes[TURNED_AWAY],
        {outcome: count for outcome, count in outcomes.items() if outcome not in (ACCEPTED, TURNED_AWAY)},
        waiting,
        round(drained, 2),
        mails_drained,
        delays,
        not_mailed,
        {name: round(1000 * (cpu[name] - cpu_before[name]) / len(accepted), 3) for name in pids},
    )


def plot(found: Mapping[str, Mapping[str, Any]]) -> str:
    """An SVG of what `at_rates` found, as it is in JSON."""
    title = "Delay over load, from when an order was due"
    return curves(title, "orders/s, open loop", "ms", list(_curves(list(found.values()))))


def _curves(found: Sequence[Mapping[str, Any]]) -> Iterator[Curve]:
    for colour, (stage, shown) in enumerate(_DRAWN.items()):
        for percentile, (name, dashes) in _DASHES.items():
            points = [(one["rate"], max(0.1, one["delays"][stage][percentile])) for one in found]
            yield Curve(f"{shown} {name}", points, colour, dashes)
