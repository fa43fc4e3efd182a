"""The most orders a second that may come for as long as one likes: an open loop at one rate after the other.

The closed loop (`sustained`) asks no more than the system gives. Here nobody waits: either everything that
came is finished when it ends, or a backlog has grown.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from choreo.benchmarks.observe import Journals, until
from choreo.benchmarks.rates import AtRate, at_rate
from choreo.benchmarks.users import OrderMaker
from choreo.progress import Progress

STEP = 1.1
"""Between two rates that are tried; what is found is right to within that."""
_MOST_TRIALS = 8
_BACKLOG = 0.05
"""Of the load's time: what takes longer to finish after its end is a backlog that has grown."""
_ROUND_TO = 10
_MAIL_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Most:
    rate: float | None
    """The highest at which all were accepted and no backlog grew; None: not at the lowest that was tried."""
    too_much: float | None
    """The lowest at which that was not so; None: it was so at each that was tried."""
    cpu_ms_per_order: Mapping[str, float]
    """By part at that rate, and of the load generator."""
    trials: Sequence[AtRate]


@dataclass(frozen=True)
class Capacity:
    """Until an order is decided and its notification stored; with mails, until `NotificationSent` is out."""

    without_mails: Most
    """The mailer was held."""
    with_mails: Most
    at_half: AtRate | None
    """Delays at half of what was found with mails."""


async def capacity(
    begin_with: float,
    makers: Sequence[OrderMaker],
    facts: Mapping[str, Any],
    pids: Mapping[str, int],
    journals: Journals,
    seconds: float,
    progress: Progress,
) -> Capacity:
    """`facts` are those of run.json."""

    async def at(rate: float, *, mailed: bool = True) -> AtRate:
        return await at_rate(rate, makers, facts, pids, journals, seconds, progress, mailed=mailed)

    with_mails = await search(begin_with, at, no_backlog)
    half = await at(with_mails.rate / 2) if with_mails.rate else None
    with journals.mails_wait():
        without_mails = await search(with_mails.rate or begin_with, partial(at, mailed=False), no_backlog)
    progress.stage(f"capacity: sending the mails that wait ({journals.pending_mails()})")
    await until(lambda: not journals.unmailed(), _MAIL_TIMEOUT_SECONDS, every=0.5)
    return Capacity(without_mails, with_mails, half)


def no_backlog(found: AtRate) -> bool:
    allowed = max(0.5, _BACKLOG * found.seconds)
    mailed = "mailed" in found.delays
    drained = found.mails_drained_after_seconds if mailed else found.drained_after_seconds
    return found.accepted == found.sent and drained is not None and drained <= allowed


async def search(
    begin_with: float, at: Callable[[float], Awaitable[AtRate]], holds: Callable[[AtRate], bool]
) -> Most:
    """Upwards from there as long as it holds; or downwards, until it does."""
    trials: list[AtRate] = []
    best: AtRate | None = None
    too_much: float | None = None
    rate = begin_with
    while len(trials) < _MOST_TRIALS and not (best and too_much):
        found = await at(max(_ROUND_TO, _ROUND_TO * round(rate / _ROUND_TO)))
        trials.append(found)
        if holds(found):
            best, rate = found, found.rate * STEP
        else:
            too_much, rate = found.rate, found.rate / STEP
    return Most(best.rate if best else None, too_much, best.cpu_ms_per_order if best else {}, trials)
