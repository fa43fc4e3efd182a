"""What a load did beyond its rates: latencies, mails, and what everything behind them had to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from choreo.benchmarks.costs.counters import Costs, costs, read_counters
from choreo.benchmarks.costs.profile import Profiler
from choreo.benchmarks.costs.statements import Statements, statements
from choreo.benchmarks.latency import Quantiles, by_stage
from choreo.benchmarks.load import ClosedLoop
from choreo.benchmarks.observe import Journals, when_mailed
from choreo.operations.acting.throwaway import ThrowawaySystem


@dataclass(frozen=True)
class Insight:
    """Delays are from when a customer sent an order, who had waited for the answer to the one before. What
    they are for those who do not wait, the open loop tells.
    """

    mailed_per_second: float
    """`NotificationSent` appended to its topic."""
    accepted: Quantiles
    decided: Quantiles
    notified: Quantiles
    mailed: Quantiles
    not_mailed: int
    """So many had no mail when that was given up; they count as if they had it then."""
    costs: Costs
    statements: Statements | None
    """None where they could not be counted."""
    profiles: Sequence[str]
    """Flame graphs of the services, as files; drawn after everything above was measured."""


class Instruments:
    """On a system that publishes its facts, around one load."""

    def __init__(
        self, system: ThrowawaySystem, pids: Mapping[str, int], profiler: Profiler | None = None
    ) -> None:
        self._system, self._pids, self._profiler = system, pids, profiler

    async def begin(self) -> None:
        self._before = await read_counters(self._system, self._pids)

    async def end(self, finished: Callable[[], int]) -> None:
        """The load goes on for some seconds, in which statements are counted and profiles drawn."""
        self._after = await read_counters(self._system, self._pids)
        self._statements = await statements(self._system, finished)
        self._profiles = await self._profiler.draw() if self._profiler else []

    async def insight(
        self, loop: ClosedLoop, journals: Journals, begin: float, end: float, orders: float
    ) -> Insight:
        """Of what was sent in this time; `orders`: of all that everything did then."""
        placed = [sent.placed() for sent in loop.sent if begin <= sent.due < end]
        mailed = await when_mailed(self._system.run_file, begin)
        stages, not_mailed = by_stage(placed, journals, mailed)
        return Insight(
            round(sum(at < end for at in mailed.values()) / (end - begin), 1),
            **stages,
            not_mailed=not_mailed,
            costs=costs(self._before, self._after, end - begin, orders),
            statements=self._statements,
            profiles=list(map(str, self._profiles)),
        )
