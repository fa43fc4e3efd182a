"""What a thousand open requests cost that wait for something which does not come."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from uuid import uuid4

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.resources import cpu_seconds
from choreo.benchmarks.users import OrderMaker
from choreo.progress import Progress

COUNT = 1000
USERS = 20
"""Of one user fifty may wait."""
_SECONDS = 20.0
_WAIT = 30
_SETTLE = 5.0


@dataclass(frozen=True)
class Waits:
    """CPU of the order service, in % of a core."""

    waits: int
    seconds: float
    cpu_percent_without: float
    cpu_percent_with: float


async def waits(
    makers: Sequence[OrderMaker], ports: Mapping[str, int], pids: Mapping[str, int], progress: Progress
) -> Waits:
    order = {"order": pids["order"]}
    without = await _cpu_percent(order, "at rest", progress)
    connections = [Connection(ports["order"]) for _ in range(COUNT)]
    asking = [
        asyncio.ensure_future(
            connection.request("GET", f"/orders?limit=1&flow={uuid4()}&wait={_WAIT}", b"", maker.user.headers)
        )
        for connection, maker in zip(connections, cycle(makers), strict=False)
    ]
    await asyncio.sleep(_SETTLE)
    with_waits = await _cpu_percent(order, f"{COUNT} requests wait", progress)
    if any(request.done() for request in asking):
        raise ConnectionError("a request did not wait as long as it was to")
    await asyncio.gather(*asking)
    for connection in connections:
        connection.close()
    return Waits(COUNT, _SECONDS, round(without, 2), round(with_waits, 2))


async def _cpu_percent(pids: Mapping[str, int], what: str, progress: Progress) -> float:
    before, since = sum(cpu_seconds(pids).values()), time.monotonic()
    while (passed := time.monotonic() - since) < _SECONDS:
        progress.step(what, passed, _SECONDS, passed, timed=True)
        await asyncio.sleep(min(1.0, _SECONDS - passed))
    return 100 * (sum(cpu_seconds(pids).values()) - before) / (time.monotonic() - since)
