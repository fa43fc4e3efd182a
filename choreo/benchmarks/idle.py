"""What the system needs before anybody asks for anything: time to start, memory, CPU at rest."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from choreo.benchmarks.resources import cpu_seconds, memory
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress


@dataclass(frozen=True)
class StartUp:
    """From the start of `choreo up` until it says that everything is ready."""

    first_seconds: float
    """With empty data; what can be downloaded was there."""
    stop_seconds: float
    second_seconds: float
    """On the data of the first."""


@dataclass(frozen=True)
class AtRest:
    """Nobody asks for anything."""

    seconds: float
    memory_kind: str
    memory_mib: Mapping[str, float]
    memory_total_mib: float
    cpu_percent_of_a_core: Mapping[str, float]
    cpu_total_percent: float


def start_up(system: ThrowawaySystem, progress: Progress) -> StartUp:
    """Afterwards the system runs."""
    progress.stage("start-up: first start, with empty data")
    first = system.start()
    progress.stage("start-up: stop, and second start")
    stopped = system.stop()
    return StartUp(round(first, 2), round(stopped, 2), round(system.start(), 2))


async def at_rest(pids: Mapping[str, int], seconds: float, progress: Progress) -> AtRest:
    before, since = cpu_seconds(pids), time.monotonic()
    while (passed := time.monotonic() - since) < seconds:
        progress.step("at rest", passed, seconds, passed, timed=True)
        await asyncio.sleep(min(1.0, seconds - passed))
    passed, after = time.monotonic() - since, cpu_seconds(pids)
    cpu = {name: 100 * (after[name] - before[name]) / passed for name in pids}
    held = memory(pids)
    return AtRest(
        round(passed, 1),
        held.kind,
        {name: round(mib, 1) for name, mib in held.mib.items()},
        round(held.total, 1),
        {name: round(percent, 2) for name, percent in cpu.items()},
        round(sum(cpu.values()), 2),
    )
