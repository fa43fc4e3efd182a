"""What it costs a busy system that somebody has its console open: turn by turn, with and without."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from choreo.benchmarks.load import Placed, open_loop, schedule
from choreo.benchmarks.observe import Journals, until
from choreo.benchmarks.resources import cpu_seconds, memory
from choreo.benchmarks.users import OrderMaker
from choreo.chassis.registry import CONSOLE_PORT_OFFSET
from choreo.embedded.ports import LOOPBACK
from choreo.progress import Progress

USERS = 40
_RATE = 30.0
"""Orders a second: a system that is busy, and not full."""
_TURNS = 5
_WARM_UP_SECONDS = 5.0
_DRAINED_WITHIN_SECONDS = 60.0
_RESTS_WITHIN_SECONDS = 180.0
_PAGES = ("/live/", "/live/flows/{flow}")
"""Those that change by themselves, each as an open tab asks for it."""


@dataclass(frozen=True)
class Watched:
    """A system under a steady load, looked at through its console and not."""

    orders_per_second: float
    seconds: float
    """Of each turn."""
    turns: int
    """Of each kind."""
    pages: Sequence[str]
    cpu_ms_per_order_without: Mapping[str, float]
    """By part; medians of the turns, as below."""
    cpu_ms_per_order_with: Mapping[str, float]
    services_percent_more: float
    """CPU of the services' processes together, of an order."""
    services_percent_more_by_turn: Sequence[float]
    console_cpu_percent_of_a_core: float
    console_memory_mib: float
    """While it is looked at."""
    console_gone_after_seconds: float
    """From when nobody was connected any more: then there is no process."""


async def watched(
    makers: Sequence[OrderMaker],
    facts: Mapping[str, Any],
    pids: Mapping[str, int],
    journals: Journals,
    seconds: float,
    progress: Progress,
) -> Watched:
    port, services = facts["port_base"] + CONSOLE_PORT_OFFSET, [*facts["own_ports"]]
    turns: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    held: list[float] = []

    async def turn(what: str) -> dict[str, float]:
        """Returns milliseconds of an order by part; of the console's process, which may begin meanwhile."""
        progress.stage(f"console: {what}")
        placed: list[Placed] = []
        parts = {**pids, **_console(facts["pid"])}
        before = cpu_seconds(parts)
        await open_loop(makers, facts["ports"]["order"], schedule(_RATE, seconds), placed.append)
        if await until(lambda: not journals.undecided(), _DRAINED_WITHIN_SECONDS) is None:
            raise TimeoutError(f"orders were not decided within {_DRAINED_WITHIN_SECONDS:.0f} s")
        after = cpu_seconds(parts)
        return {name: 1000 * (after[name] - before[name]) / len(placed) for name in parts}

    first: list[Placed] = []
    progress.stage("console: warm-up")
    times = schedule(_RATE, _WARM_UP_SECONDS)
    await open_loop(makers, facts["ports"]["order"], times, first.append)
    for number in range(2 * _TURNS):
        # without, with, with, without, …: what grows meanwhile costs both the same
        looking = number % 4 in (1, 2)
        async with _open_pages(port, str(first[-1].flow)) if looking else _nobody():
            turns[looking].append(await turn(f"turn {number + 1} of {2 * _TURNS}"))
            if looking:
                held.append(sum(memory(_console(facts["pid"])).mib.values()))
    progress.stage("console: until it rests")
    gone = await until(lambda: not _console(facts["pid"]), _RESTS_WITHIN_SECONDS)
    if gone is None:
        raise TimeoutError(f"the console did not rest within {_RESTS_WITHIN_SECONDS:.0f} s")
    per_turn = [
        100 * (sum(looked[name] for name in services) / sum(alone[name] for name in services) - 1)
        for alone, looked in zip(turns[False], turns[True], strict=True)
    ]
    medians = {kind: _medians(told) for kind, told in turns.items()}
    return Watched(
        _RATE,
        seconds,
        _TURNS,
        _PAGES,
        {name: round(ms, 3) for name, ms in medians[False].items() if name != "console"},
        {name: round(ms, 3) for name, ms in medians[True].items()},
        round(median(per_turn), 2),
        [round(percent, 2) for percent in per_turn],
        round(medians[True].get("console", 0.0) * _RATE / 10, 2),
        round(median(held), 1),
        round(gone, 1),
    )


def _medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(turn[name] for turn in turns if name in turn) for name in turns[-1]}


def _console(supervisor: int) -> dict[str, int]:
    """Returns its process, where there is one."""
    pids = []
    for child in psutil.Process(supervisor).children():
        with suppress(psutil.NoSuchProcess):  # one that has ended, too
            pids += [child.pid] if child.cmdline()[-1:] == ["console"] else []
    return {"console": pids[0]} if pids else {}


@asynccontextmanager
async def _nobody() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _open_pages(port: int, flow: str) -> AsyncIterator[None]:
    """Begins once all have come for the first time."""
    pages = [_Page(port, path.format(flow=flow)) for path in _PAGES]
    tasks = [asyncio.ensure_future(page.read()) for page in pages]
    try:
        for page in pages:
            await asyncio.wait_for(page.came.wait(), 60)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Page:
    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self.came = asyncio.Event()

    async def read(self) -> None:
        """Until it is cancelled, or there is no more to come."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=1 << 24)
        try:
            writer.write(f"GET {self._path} HTTP/1.1\r\nHost: {LOOPBACK}:{self._port}\r\n\r\n".encode())
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    self.came.set()
        finally:
            writer.close()
