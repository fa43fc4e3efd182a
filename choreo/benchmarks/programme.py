"""Which measurements there are, in which order they run, and what they run on."""

import os
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import uvloop

from choreo.benchmarks.age.measure import age
from choreo.benchmarks.costs.insight import Instruments
from choreo.benchmarks.costs.profile import Profiler, py_spy
from choreo.benchmarks.hostile.measure import USERS as HOSTILE_USERS
from choreo.benchmarks.hostile.measure import hostile
from choreo.benchmarks.idle import at_rest, start_up
from choreo.benchmarks.latency import latency
from choreo.benchmarks.limits.capacity import capacity
from choreo.benchmarks.limits.overload import overload
from choreo.benchmarks.limits.recovery import recoveries
from choreo.benchmarks.observe import Journals
from choreo.benchmarks.parts import consumer, kernel
from choreo.benchmarks.rates import at_rates, plot, usual_rates
from choreo.benchmarks.replay import replay
from choreo.benchmarks.resources import LOAD
from choreo.benchmarks.results.comparison import compare, read_earlier
from choreo.benchmarks.results.judged import Judged, judged
from choreo.benchmarks.results.page import keep, require_pages
from choreo.benchmarks.results.report import show
from choreo.benchmarks.styles.measure import measure as styles
from choreo.benchmarks.sustained import sustained
from choreo.benchmarks.users import OrderMaker, Refused, register_users
from choreo.benchmarks.waits import USERS as WAITERS
from choreo.benchmarks.waits import waits
from choreo.benchmarks.watched import USERS as WATCHED
from choreo.benchmarks.watched import watched
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE, NothingCame
from choreo.errors import Unavailable, UsageError
from choreo.machine import commit, machine
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress

T = TypeVar("T")

_REST_SECONDS = 10.0
_USERS = 200

_REASONS = (Refused, LookupError, OSError, NothingCame, psycopg.Error, *LOG_UNREADABLE)
"""To give a measurement up; lost connections and time-outs are OSErrors."""

TOGETHER = (
    "startup", "rest", "waits", "latency", "sustained", "rates", "capacity", "overload", "recovery"
)  # fmt: skip
"""On one system, in this order."""
BY_THEMSELVES = ("hostile", "replay", "kernel", "consumer", "styles", "age", "console")
"""They take minutes, and want systems that nobody else has used."""
OPEN_LOOPS = {"rates", "capacity", "recovery"}
"""They go by what is sustained where no rate is given."""
WITHOUT_IT = ("kernel", "consumer", "styles", "age")
"""They start what they need themselves: parts of a system, or several."""


@dataclass(frozen=True)
class Wanted:
    names: Collection[str]
    seconds: int
    events: int
    rates: Sequence[float] = ()
    """Of the open loop; none: the usual ones below what is sustained."""
    accounts: int = 1_000_000
    journal_rows: int = 10_000_000
    """What an old system has more than a young one."""
    profiles: Path | None = None
    """A directory for flame graphs of the services under the sustained load."""

    @property
    def sustained(self) -> bool:
        """Whether that is measured: others go by it."""
        by_it = {"sustained", "overload"} | (set() if self.rates else OPEN_LOOPS)
        return not by_it.isdisjoint(self.names)


def run(
    wanted: Wanted,
    *,
    drawing: Path | None = None,
    earlier: Path | None = None,
    as_json: bool = False,
    kept: bool = False,
) -> bool:
    """Measures, draws and prints, with the ratios to an earlier run where there is one. Returns whether the
    run counts: no promise was broken. What counts is `kept` in docs/.

    Raises `Unavailable` where the system cannot be started or loses an order, or a profile cannot be drawn;
    UsageError where what the earlier run printed cannot be read, or nothing is measured that can be drawn.
    """
    before = read_earlier(earlier) if earlier else None
    _see_that_it_can_be_done(wanted, drawing)
    if kept:
        require_pages()
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "command": shlex.join(["choreo", *sys.argv[1:]]),
        "machine": machine(),
        "seconds": wanted.seconds,
        "judged": {},
    }
    progress = Progress()
    try:
        for together in (TOGETHER, *((name,) for name in BY_THEMSELVES if name not in WITHOUT_IT)):
            if names := [name for name in together if name in wanted.names]:
                found, verdict = _on_one_system(replace(wanted, names=names), progress)
                results |= found
                results["judged"][", ".join(names)] = asdict(verdict)
        if "kernel" in wanted.names:
            progress.stage("kernel: five rounds of transactions")
            results["kernel"] = asdict(_or_give_up(kernel))
        if "consumer" in wanted.names:
            progress.stage("consumer: records at three rates")
            results["consumer"] = _or_give_up(consumer)
        if "styles" in wanted.names:
            by_style = _or_give_up(lambda: uvloop.run(styles(wanted.seconds, progress)))
            results["styles"] = {style: asdict(figures) for style, figures in by_style.items()}
        if "age" in wanted.names:
            aged, verdicts = _or_give_up(
                lambda: uvloop.run(age(wanted.accounts, wanted.journal_rows, wanted.seconds, progress))
            )
            results["age"] = asdict(aged)
            results["judged"] |= verdicts
    finally:
        progress.done()
    if drawing:
        drawing.write_text(plot(results["rates"]))
    show(results, compare(before, results) if before else None, as_json=as_json)
    counts = not any(verdict["violations"] for verdict in results["judged"].values())
    if kept and counts:
        keep(results)
    return counts


def _see_that_it_can_be_done(wanted: Wanted, drawing: Path | None) -> None:
    """Before minutes are spent on it. Raises UsageError or `Unavailable`."""
    if drawing and "rates" not in wanted.names:
        raise UsageError("A plot needs --only rates, or no --only at all.")
    if wanted.rates and OPEN_LOOPS.isdisjoint(wanted.names):
        raise UsageError("Rates need --only rates, capacity or recovery, or no --only at all.")
    if drawing and not drawing.parent.is_dir():
        raise UsageError(f"{drawing.parent} is no directory to draw into.")
    if wanted.profiles:
        if not wanted.sustained:
            raise UsageError("A profile needs --only sustained, or no --only at all.")
        py_spy()


def _on_one_system(wanted: Wanted, progress: Progress) -> tuple[dict[str, Any], Judged]:
    with ThrowawaySystem() as system:
        started = {}
        if "startup" in wanted.names:
            started["startup"] = asdict(start_up(system, progress))
        else:
            progress.stage("starting")
            system.start()
        measured, verdict = _or_give_up(lambda: uvloop.run(_measure(system, wanted, progress)))
    return started | measured, verdict


def _or_give_up(measure: Callable[[], T]) -> T:
    reasons: list[BaseException] = []
    try:
        return measure()
    except* _REASONS as group:
        reasons += group.exceptions
    while isinstance(reasons[0], BaseExceptionGroup):
        reasons = list(reasons[0].exceptions)
    raise Unavailable(f"The measurement was given up: {reasons[0] or repr(reasons[0])}.") from reasons[0]


async def _measure(
    system: ThrowawaySystem, wanted: Wanted, progress: Progress
) -> tuple[dict[str, Any], Judged]:
    names, seconds = wanted.names, wanted.seconds
    facts = system.run_file
    pids = system.pids
    ports, journals = facts["ports"], Journals(facts["owner_urls"])
    results: dict[str, Any] = {}
    customers: list[OrderMaker] = []

    async def register(count: int) -> Sequence[OrderMaker]:
        makers = await register_users(count, ports, progress.counting("users registered", count))
        customers.extend(makers)
        return makers

    if "rest" in names:
        results["rest"] = asdict(await at_rest(pids, _REST_SECONDS, progress))
    if "waits" in names:
        waiting = await register(WAITERS)
        results["waits"] = asdict(await waits(waiting, ports, pids, progress))
    if "hostile" in names:
        disturbed = await register(HOSTILE_USERS)
        results["hostile"] = [asdict(found) for found in await hostile(disturbed, ports, progress)]
    if wanted.sustained or ({"latency", "replay"} | OPEN_LOOPS) & set(names):
        makers = await register(_USERS)
    if "latency" in names:
        results["latency"] = asdict(await latency(makers, facts, journals, seconds, progress))
    all_pids = pids | {LOAD: os.getpid()}
    if wanted.sustained:
        services = {name: facts["pids"][name] for name in facts["own_ports"]}
        profiler = Profiler(services, wanted.profiles) if wanted.profiles else None
        instruments = Instruments(system, all_pids, profiler)
        found = await sustained(makers, ports, all_pids, journals, seconds, progress, instruments)
        results["sustained"] = asdict(found)
    if "rates" in names:
        rates = wanted.rates or usual_rates(found.orders_per_second)
        at_each = await at_rates(rates, makers, facts, all_pids, journals, seconds, progress)
        results["rates"] = {rate: asdict(measured) for rate, measured in at_each.items()}
    if "capacity" in names:
        rate = max(wanted.rates) if wanted.rates else found.orders_per_second
        most = await capacity(rate, makers, facts, all_pids, journals, seconds, progress)
        results["capacity"] = asdict(most)
    if "overload" in names:
        rate = found.orders_per_second
        results["overload"] = asdict(await overload(makers, ports, journals, rate, progress))
    if "recovery" in names:
        rate = min(wanted.rates) if wanted.rates else found.orders_per_second / 2
        again = await recoveries(system, rate, makers, journals, progress)
        results["recovery"] = {one.service: asdict(one) for one in again}
    if "replay" in names:
        users = [maker.user for maker in makers]
        results["replay"] = asdict(await replay(system, users, journals, wanted.events, progress))
    if "console" in names:
        ordering = await register(WATCHED)
        results["console"] = asdict(await watched(ordering, facts, pids, journals, seconds, progress))
    everybody = None if "replay" in names else customers
    return results, await judged(facts, everybody, progress)
