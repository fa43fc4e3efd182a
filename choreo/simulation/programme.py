"""Many worlds, one seed after the other, and what is said of them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from choreo.simulation.world import Outcome, play


@dataclass
class Summary:
    """What came of worlds that were played."""

    schedules: int = 0
    steps: int = 0
    faults: int = 0
    wall_seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """By kind of fault, how many worlds had it."""
    broken: list[Outcome] = field(default_factory=list)

    @property
    def schedules_per_second(self) -> float:
        return self.schedules / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.wall_seconds if self.wall_seconds else 0.0


def simulate(
    seeds: Iterable[int],
    *,
    most_broken: int = 1,
    tell: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Ends with the seeds, or when so many have broken a promise. `tell` is told how many are done."""
    summary, begun = Summary(), time.monotonic()
    for seed in seeds:
        outcome = play(seed)
        summary.schedules += 1
        summary.steps += outcome.steps
        summary.faults += outcome.faults
        summary.kinds.update(outcome.plan.faults)
        if outcome.violations:
            summary.broken.append(outcome)
        summary.wall_seconds = time.monotonic() - begun
        tell(summary.schedules)
        if len(summary.broken) >= most_broken:
            break
    return summary
