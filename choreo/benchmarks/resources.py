"""What each part of a running system holds in memory and costs in CPU. Parts include their own children."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

CpuSeconds = Mapping[str, float]
"""By part, since each began."""

LOAD = "load generator"
"""The part that asks, and is no part of the system."""

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    kind: str
    """`PSS` where the system tells it (shared pages are divided among those who share them), or `RSS`."""
    mib: Mapping[str, float]
    """By part."""

    @property
    def total(self) -> float:
        return sum(self.mib.values())


def memory(pids: Mapping[str, int]) -> Memory:
    parts = {name: _family(pid, pids) for name, pid in pids.items()}
    for kind in ("pss", "rss"):
        try:
            mib = {
                name: sum(_bytes(process, kind) for process in family) / _MIB
                for name, family in parts.items()
            }
        except (psutil.AccessDenied, AttributeError):
            continue
        return Memory(kind.upper(), mib)
    raise AssertionError("every system tells RSS")


def resident(pid: int) -> int:
    """Bytes (RSS) of a process and its children; 0 once it is gone."""
    return sum(_bytes(process, "rss") for process in _family(pid, {}))


def _bytes(process: psutil.Process, kind: str) -> int:
    try:
        told = process.memory_full_info() if kind == "pss" else process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(getattr(told, kind))


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Differences of two of these tell what was used in between, by children that ended too."""
    return {name: sum(map(_seconds, _family(pid, pids))) for name, pid in pids.items()}


def without_load(by_part: Mapping[str, float]) -> float:
    """All that the system's parts used."""
    return sum(used for part, used in by_part.items() if part != LOAD)


def written_bytes(pids: Mapping[str, int]) -> dict[str, int]:
    """As `cpu_seconds`, of bytes written to disk. Empty where the system does not tell."""
    try:
        return {name: sum(map(_written, _family(pid, pids))) for name, pid in pids.items()}
    except (AttributeError, psutil.AccessDenied):
        return {}


def _written(process: psutil.Process) -> int:
    try:
        return int(process.io_counters().write_bytes)
    except psutil.NoSuchProcess:
        return 0


def _seconds(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))  # user and system; the same of children that ended
    except psutil.NoSuchProcess:
        return 0.0


def _family(pid: int, pids: Mapping[str, int]) -> list[psutil.Process]:
    """A part and its children; of the supervisor, whose children are parts themselves, only itself."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if {child.pid for child in children} & set(pids.values()):
        return [process]
    return [process, *children]
