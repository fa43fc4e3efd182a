"""Which measurements there are, in which order they run, and what they run on."""

import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from choreo.benchmarks.hostile.measure import USERS as HOSTILE_USERS
from choreo.benchmarks.hostile.measure import hostile
from choreo.benchmarks.idle import at_rest, start_up
from choreo.benchmarks.latency import latency
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.overload import overload
from choreo.benchmarks.replay import replay
from choreo.benchmarks.resources import machine
from choreo.benchmarks.results.comparison import compare, read_earlier
from choreo.benchmarks.results.report import show
from choreo.benchmarks.styles.measure import measure as styles
from choreo.benchmarks.sustained import sustained
from choreo.benchmarks.users import Refused, register_users
from choreo.benchmarks.waits import USERS as WAITERS
from choreo.benchmarks.waits import waits
from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress

_REST_SECONDS = 10.0
_USERS = 200

TOGETHER = ("startup", "rest", "waits", "latency", "sustained", "overload")
"""On one system, in this order."""
BY_THEMSELVES = ("hostile", "replay", "styles")
"""They take minutes, and want systems that nobody else has used."""


def run(
    seconds: int, events: int, names: Collection[str], *, earlier: Path | None = None, as_json: bool
) -> None:
    """Measures and prints, with the ratios to an earlier run where there is one.

    Raises `Unavailable` where the system cannot be started or loses an order, UsageError where what the
    earlier run printed cannot be read.
    """
    before = read_earlier(earlier) if earlier else None
    results: dict[str, Any] = {"machine": machine(), "seconds": seconds}
    progress = Progress()
    try:
        if together := [name for name in TOGETHER if name in names]:
            results |= _on_one_system(seconds, events, together, progress)
        for name in BY_THEMSELVES:
            if name in names and name != "styles":
                results |= _on_one_system(seconds, events, [name], progress)
        if "styles" in names:
            found = _or_give_up(lambda: uvloop.run(styles(seconds, progress)))
            results["styles"] = {style: asdict(figures) for style, figures in found.items()}
    finally:
        progress.done()
    show(results, compare(before, results) if before else None, as_json=as_json)


def _on_one_system(seconds: int, events: int, names: Collection[str], progress: Progress) -> dict[str, Any]:
    with ThrowawaySystem() as system:
        started = asdict(start_up(system, progress))
        measured = _or_give_up(lambda: uvloop.run(_measure(system, seconds, events, names, progress)))
    return ({"startup": started} if "startup" in names else {}) | measured


def _or_give_up(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    reasons: list[BaseException] = []
    try:
        return measure()
    except* (Refused, LookupError, OSError) as group:  # lost connections and time-outs are OSErrors
        reasons += group.exceptions
    while isinstance(reasons[0], BaseExceptionGroup):
        reasons = list(reasons[0].exceptions)
    raise Unavailable(f"The measurement was given up: {reasons[0] or repr(reasons[0])}.") from reasons[0]


async def _measure(
    system: ThrowawaySystem, seconds: float, events: int, names: Collection[str], progress: Progress
) -> dict[str, Any]:
    facts = system.run_file
    pids = {**facts["pids"], "supervisor": system.supervisor_pid}
    ports, journals = facts["ports"], Journals(facts["owner_urls"])
    results: dict[str, Any] = {}
    if "rest" in names:
        results["rest"] = asdict(await at_rest(pids, _REST_SECONDS, progress))
    if "waits" in names:
        waiting = await register_users(WAITERS, ports, progress.counting("users registered", WAITERS))
        results["waits"] = asdict(await waits(waiting, ports, pids, progress))
    if "hostile" in names:
        customers = await register_users(
            HOSTILE_USERS, ports, progress.counting("users registered", HOSTILE_USERS)
        )
        results["hostile"] = [asdict(found) for found in await hostile(customers, ports, progress)]
    if {"latency", "sustained", "overload", "replay"} & set(names):
        makers = await register_users(_USERS, ports, progress.counting("users registered", _USERS))
    if "latency" in names:
        results["latency"] = asdict(await latency(makers, ports, journals, seconds, progress))
    if {"sustained", "overload"} & set(names):
        all_pids = pids | {"load generator": os.getpid()}
        found = await sustained(makers, ports, all_pids, journals, seconds, progress)
        results["sustained"] = asdict(found)
        if "overload" in names:
            rate = found.orders_per_second
            results["overload"] = asdict(await overload(makers, ports, journals, rate, progress))
    if "replay" in names:
        users = [maker.user for maker in makers]
        results["replay"] = asdict(await replay(system, users, journals, events, progress))
    return results
