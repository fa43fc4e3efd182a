"""Whether a run counts: the judge of `choreo/chaos` looks at all that is left of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.users import OrderMaker, Refused
from choreo.chaos.drain import drain
from choreo.chaos.evidence import UNREADABLE, collect
from choreo.chaos.history import History
from choreo.chaos.judge import PROMISES, judge
from choreo.progress import Progress

_STILL_SECONDS = 30.0
"""So long nothing may be as it was before while something is to be done. A mail waits for its next try."""
_MOST_TOLD = 20
_BY_REQUESTS = "I6"
"""Can only be judged where it is known what everybody asked for."""


@dataclass(frozen=True)
class Judged:
    promises: Sequence[str]
    """Those that were looked at."""
    orders: int
    records: int
    """Of all topics."""
    violations: int
    told: Sequence[str]
    """The first of them, a sentence each. With one the run is void."""


async def judged(
    facts: Mapping[str, Any], customers: Sequence[OrderMaker] | None, progress: Progress
) -> Judged:
    """Once everything is handled. `facts` are those of run.json; `customers` all who asked for anything,
    or None where others did as well.
    """
    if customers is not None:
        order = Connection(facts["ports"]["order"])
        for customer in customers:
            await customer.ask_again(order)
        order.close()
    progress.stage("judging: until everything is handled")
    undone = _come_to_rest(facts)
    progress.stage("judging: reading topics and tables")
    requests = [request for customer in customers or () for request in customer.requests()]
    try:
        history = collect(facts, requests)
    except UNREADABLE as error:
        return Judged((), 0, 0, 1, [f"the evidence cannot be read: {error}"])
    progress.stage("judging: looking at it")
    return verdict(history, undone, all_asked=customers is not None)


def refuse_void(found: Judged) -> None:
    """Raises `Refused` where the run is void."""
    if found.violations:
        raise Refused(f"{found.violations} violations, the first: {found.told[0]}")


def verdict(history: History, undone: Sequence[str], *, all_asked: bool) -> Judged:
    """`undone` is what was not handled in the end."""
    promises = [promise for promise in PROMISES if all_asked or promise != _BY_REQUESTS]
    found = [f"I7: {what}" for what in undone]
    found += [f"{one.promise}: {one.text}" for one in judge(history) if one.promise in promises]
    orders = len(history.tables.get("order", {}).get("orders", ()))
    return Judged(promises, orders, len(history.records), len(found), found[:_MOST_TOLD])


def _come_to_rest(facts: Mapping[str, Any]) -> list[str]:
    """What is to be done still, although nothing of it was done for a while."""
    undone: list[str] = []
    while True:
        before, undone = undone, drain(facts, time.monotonic() + _STILL_SECONDS)
        if not undone or undone == before:
            return undone
