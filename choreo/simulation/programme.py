"""Many worlds, one seed after the other, and what is said of them."""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from multiprocessing import get_context

from choreo.simulation.world import Outcome, play

_PIECE = 50
"""Seeds that a process is given at once."""
_WORLDS_KEPT = 25
"""So many that are over may wait in memory to be collected."""


@dataclass
class Summary:
    """What came of worlds that were played."""

    schedules: int = 0
    steps: int = 0
    faults: int = 0
    wall_seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """By kind of fault, how many worlds had it."""
    killed_at: set[str] = field(default_factory=set)
    """Awaits at which a process was when it was killed."""
    coincided: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Two kinds of faults, and how many worlds had both."""
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    """A statement that waited for another transaction, and the last one of that: in how many worlds."""
    broken: list[Outcome] = field(default_factory=list)

    @property
    def schedules_per_second(self) -> float:
        return self.schedules / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.wall_seconds if self.wall_seconds else 0.0

    def add(self, other: "Summary") -> None:
        """What came of further ones, but for the time."""
        self.schedules += other.schedules
        self.steps += other.steps
        self.faults += other.faults
        self.kinds.update(other.kinds)
        self.killed_at |= other.killed_at
        self.coincided.update(other.coincided)
        self.met.update(other.met)
        self.broken += other.broken


def processes_for(schedules: int) -> int:
    """One for each core there is, if each has enough to do."""
    return max(1, min(len(os.sched_getaffinity(0)), schedules // _PIECE))


def simulate_beside(
    seeds: range, processes: int, *, tell: Callable[[int], None] = lambda done: None
) -> Summary:
    """As `simulate`, by so many processes at once. Ends with the first piece that holds a broken promise."""
    summary, begun = Summary(), time.monotonic()
    pieces = [seeds[first : first + _PIECE] for first in range(0, len(seeds), _PIECE)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for piece in pool.map(simulate, pieces):
            summary.add(piece)
            summary.wall_seconds = time.monotonic() - begun
            tell(summary.schedules)
            if summary.broken:
                pool.shutdown(cancel_futures=True)
                break
    return summary


def simulate(
    seeds: Iterable[int],
    *,
    most_broken: int = 1,
    tell: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Ends with the seeds, or when so many have broken a promise. `tell` is told how many are done."""
    summary, begun = Summary(), time.monotonic()
    with _collected_between_worlds() as collect:
        for seed in seeds:
            outcome = play(seed)
            summary.schedules += 1
            summary.steps += outcome.steps
            summary.faults += outcome.faults
            summary.kinds.update(outcome.plan.faults)
            summary.killed_at |= outcome.killed_at
            summary.coincided.update(combinations(sorted(outcome.befell), 2))
            summary.met.update(outcome.met)
            if outcome.violations:
                summary.broken.append(outcome)
            summary.wall_seconds = time.monotonic() - begun
            tell(summary.schedules)
            if len(summary.broken) >= most_broken:
                break
            if summary.schedules % _WORLDS_KEPT == 0:
                collect()
    return summary


@contextmanager
def _collected_between_worlds() -> Iterator[Callable[[], object]]:
    """What is no more needed is looked for when it is asked for, and not in the midst of a world; and what
    was there before is not looked through again and again.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
