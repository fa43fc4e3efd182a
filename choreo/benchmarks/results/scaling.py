"""What more cores and more machines do, computed from what one order was measured to cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor

from choreo.benchmarks.resources import LOAD

BUSY = 0.8
"""Of a core, or of all cores: above that delays grow out of all proportion."""
PARTITIONS = 12
"""So many processes of a service have something to hear at most, as topics are made."""
CORES = (2, 4, 8, 16, 32, 64)
MANY = 100_000
"""Orders a second for which machines are counted."""
_WRITTEN_BY = 16
"""Cores for which it is told what goes to disk."""
SPREAD = ("postgres", "kafka")
"""Parts that use several cores by themselves."""


@dataclass(frozen=True)
class Machine:
    cores: int
    orders_per_second: float
    processes: Mapping[str, int]
    """Of each service, so that none of them is busy all the time."""
    limit: str
    """What keeps it from doing more."""


def machine(cores: int, cpu_ms: Mapping[str, float]) -> Machine:
    """`cpu_ms` of each part for an order; that of whoever asks is left out, and so must its cores be."""
    parts = {part: ms / 1000 for part, ms in cpu_ms.items() if part != LOAD}
    alone = {part: seconds for part, seconds in parts.items() if part not in SPREAD and seconds > 0}
    by_cores = BUSY * cores / sum(parts.values())
    busiest = max(alone, key=alone.__getitem__)
    by_partitions = BUSY * PARTITIONS / alone[busiest]
    rate = min(by_cores, by_partitions)
    processes = {part: ceil(round(rate * seconds / BUSY, 6)) for part, seconds in alone.items()}
    limit = "its cores" if by_cores <= by_partitions else f"{PARTITIONS} processes of {busiest}"
    return Machine(cores, rate, processes, limit)


def first_alone(cpu_ms: Mapping[str, float]) -> tuple[str, float]:
    """With one process each: which is the first to have no core to spare, and at how many orders a second."""
    alone = {part: ms for part, ms in cpu_ms.items() if part not in (*SPREAD, LOAD) and ms > 0}
    busiest = max(alone, key=alone.__getitem__)
    return busiest, BUSY * 1000 / alone[busiest]


def machines(rate: float, cores: int, cpu_ms: Mapping[str, float]) -> int:
    """Installations beside each other, each with a share of the users."""
    return ceil(rate / machine(cores, cpu_ms).orders_per_second)


def told(cpu_ms: Mapping[str, float], wal_bytes: float | None, topic_bytes: float | None) -> Iterator[str]:
    """Lines of Markdown."""
    parts = {part: ms for part, ms in cpu_ms.items() if part != LOAD and ms > 0}
    yield "| CPU of an order | µs | one core at 80 % does, orders/s |"
    yield "|---|---:|---:|"
    for part, ms in sorted(parts.items(), key=lambda item: -item[1]):
        yield f"| {part} | {1000 * ms:.0f} | {_hundreds(BUSY * 1000 / ms)} |"
    all_parts = sum(parts.values())
    yield f"| together | {1000 * all_parts:.0f} | {_hundreds(BUSY * 1000 / all_parts)} |"
    busiest, at = first_alone(cpu_ms)
    yield ""
    yield f"With one process each, {busiest} is the first with no core to spare: at {_hundreds(at)} orders/s."
    yield ""
    yield f"| cores | orders/s | processes | limited by | machines for {MANY:,} orders/s |"
    yield "|---:|---:|---|---|---:|"
    for cores in CORES:
        one = machine(cores, cpu_ms)
        several = ", ".join(f"{part} {count}" for part, count in one.processes.items() if count > 1)
        cells = (
            _hundreds(one.orders_per_second),
            several or "one each",
            one.limit,
            machines(MANY, cores, cpu_ms),
        )
        yield f"| {cores} | {' | '.join(map(str, cells))} |"
    if wal_bytes and topic_bytes:
        rate = machine(_WRITTEN_BY, cpu_ms).orders_per_second
        yield ""
        yield f"An order writes {wal_bytes:.0f} bytes of write-ahead log and {topic_bytes:.0f} of topics."
        yield (
            f"With {_WRITTEN_BY} cores that is {rate * wal_bytes / 2**20:.0f} and "
            f"{rate * topic_bytes / 2**20:.0f} MiB/s, and {86_400 * rate * topic_bytes / 2**30:.0f} GiB of "
            "topics a day."
        )


def _hundreds(rate: float) -> str:
    """No more is known than that."""
    step = 100 if rate >= 1000 else 10
    return f"{step * floor(round(rate / step, 6)):,}"
