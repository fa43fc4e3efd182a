"""Many worlds, one seed after the other, and what is said of them."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from choreo.embedded.process import end_with
from choreo.simulation.results.summary import Summary
from choreo.simulation.world import play

_PIECE = 50
"""Seeds that a process is given at once."""
_WORLDS_KEPT = 25
"""So many that are over may wait in memory to be collected."""


def processes_for(schedules: int) -> int:
    """One for each core there is, if each has enough to do."""
    return max(1, min(len(os.sched_getaffinity(0)), schedules // _PIECE))


def simulate_beside(
    seeds: range, processes: int, *, tell: Callable[[Summary], None] = lambda done: None
) -> Summary:
    """As `simulate`, by so many processes at once. Ends with the first piece that holds a broken promise."""
    summary, begun = Summary(), time.monotonic()
    pieces = [seeds[first : first + _PIECE] for first in range(0, len(seeds), _PIECE)]
    ends_with_us = os.getpid(), signal.SIGKILL
    with ProcessPoolExecutor(processes, get_context("spawn"), end_with, ends_with_us) as pool:
        for piece in pool.map(simulate, pieces):
            summary.add(piece)
            summary.wall_seconds = time.monotonic() - begun
            tell(summary)
            if summary.broken:
                pool.shutdown(cancel_futures=True)
                break
    return summary


def simulate(
    seeds: Iterable[int],
    *,
    most_broken: int = 1,
    tell: Callable[[Summary], None] = lambda done: None,
) -> Summary:
    """Ends with the seeds, or when so many have broken a promise. `tell` is told what has come of the first
    ones, again and again.
    """
    summary, begun = Summary(), time.monotonic()
    with _collected_between_worlds() as collect:
        for seed in seeds:
            summary.count(play(seed))
            summary.wall_seconds = time.monotonic() - begun
            tell(summary)
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
