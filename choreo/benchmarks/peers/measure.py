"""One run of one contender: how much, how fast, how dear, and what a SIGKILL in the middle leaves behind."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.latency import Quantiles, quantiles
from choreo.benchmarks.load import MOST_CONNECTIONS, ClosedLoop, Placed, open_loop, schedule
from choreo.benchmarks.observe import until
from choreo.benchmarks.peers.checker import Verdict, check
from choreo.benchmarks.peers.contender import Running
from choreo.benchmarks.peers.tables import Progress, Tables
from choreo.benchmarks.resources import cpu_seconds
from choreo.benchmarks.sustained import CONNECTIONS, WINDOW, while_running
from choreo.benchmarks.users import OrderMaker

RATE = 50.0
"""Orders/s while latency is measured and while everything is killed."""
_TICK = 0.1
_DRAIN = 20.0
_QUIET, _QUIET_WHEN_COMPLETE, _LONGEST = 20.0, 1.0, 60.0
"""Seconds without any change until nothing more is expected."""
_REDELIVERY = 12.0
"""Seconds after a SIGKILL in which something may come a second time: the member of a Kafka group that was
killed is waited for for ten, a worker of Dramatiq for five."""
_ANSWER_WITHIN, _AGAIN_AFTER = 30.0, 0.1
_ONE_IN, _DEAR = 10, "300000.00"
"""Every tenth customer buys what the money is enough for three times, so that payments are rejected, too."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds."""

    warm_up: float
    sustained: float
    latency: float
    killed: float


@dataclass(frozen=True, slots=True)
class Figures:
    orders_per_second: float
    """Finished, their outcome stored and a notification with it, in a closed loop."""
    cpu_ms_per_order: float
    """Of everything but the load generator."""
    accepted: Quantiles
    """Until the 202 was read, from when the order was due, at `RATE`."""
    notified: Quantiles
    """Until the COMMIT of its notification."""
    verdict: Verdict
    """Of all the orders of the run, those around the SIGKILL included."""


async def measure(running: Running, lengths: Lengths, tell: Callable[[str], None]) -> Figures:
    """Raises `Refused`, LookupError or OSError where it does not answer as it must."""
    makers = await running.makers()
    async with running.tables as tables:
        tell("warm-up")
        await _closed_loop(running, makers, lengths.warm_up)
        tell("sustained")
        rate, cpu = await _closed_loop(running, makers, lengths.sustained)
        tell("latency")
        placed = await _latency(running, makers, lengths.latency)
        notified_at = await tables.notified_at([order.id for order in placed])
        tell("killed in the middle")
        accepted = await _killed(running, makers, lengths.killed)
        tell("until nothing changes any more")
        await _come_to_rest(tables, at_least=_REDELIVERY)
        verdict = check(await tables.read(), accepted | {order.id for order in placed})
    return Figures(
        round(rate, 1),
        round(cpu, 2),
        quantiles([order.accepted - order.scheduled for order in placed]),
        quantiles([notified_at[order.id] - order.scheduled for order in placed if order.id in notified_at]),
        verdict,
    )


async def _closed_loop(running: Running, makers: Sequence[OrderMaker], seconds: float) -> tuple[float, float]:
    """Orders finished per second, and milliseconds of CPU for each.

    From the first order until the last is finished: some finish theirs in bursts, of which a window of time
    would catch one more or one less.
    """
    loop = ClosedLoop(makers, running.port, CONNECTIONS, WINDOW)
    before, since, cpu = await _finished(running.tables), time.monotonic(), cpu_seconds(running.pids)
    load = asyncio.ensure_future(loop.run())
    watch = asyncio.ensure_future(_watch(loop, running.tables, before))
    try:
        await while_running(load, seconds, lambda _: None)
        loop.stop()
        await load
        await until(lambda: loop.on_its_way <= 0, _DRAIN)
        passed = time.monotonic() - since
        used = sum(cpu_seconds(running.pids).values()) - sum(cpu.values())
    finally:
        for task in (load, watch):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return loop.finished / passed, 1000 * used / max(1, loop.finished)


async def _watch(loop: ClosedLoop, tables: Tables, before: int) -> None:
    while True:
        loop.has_finished(await _finished(tables) - before)
        await asyncio.sleep(_TICK)


async def _finished(tables: Tables) -> int:
    return (await tables.progress()).finished


async def _latency(running: Running, makers: Sequence[OrderMaker], seconds: float) -> list[Placed]:
    placed: list[Placed] = []
    await open_loop(makers, running.port, schedule(RATE, seconds), placed.append)
    await _come_to_rest(running.tables)
    return placed


async def _killed(running: Running, makers: Sequence[OrderMaker], seconds: float) -> set[UUID]:
    """The orders that were accepted while everything was killed and started again half-way."""
    dear = [OrderMaker(maker.user, _DEAR) for maker in makers[::_ONE_IN]]
    customers = deque([*makers, *dear])
    connections = asyncio.LifoQueue[Connection]()
    for _ in range(MOST_CONNECTIONS):
        connections.put_nowait(Connection(running.port))
    accepted: set[UUID] = set()

    async def place(number: int) -> None:
        maker, connection = customers[number % len(customers)], await connections.get()
        if id := await _place(connection, maker.next(), insists=number % 2 == 0):
            accepted.add(id)
        connections.put_nowait(connection if id else Connection(running.port))

    start, times = time.monotonic(), schedule(RATE, seconds, seed=3)
    async with asyncio.TaskGroup() as tasks:
        killed = False
        for number, at in enumerate(times):
            await asyncio.sleep(max(0.0, start + at - time.monotonic()))
            if at > seconds / 2 and not killed:
                killed = True
                running.kill()
                running.start_again()
            tasks.create_task(place(number))
    while not connections.empty():
        connections.get_nowait().close()
    return accepted


async def _place(connection: Connection, request: bytes, *, insists: bool) -> UUID | None:
    """The order's id once it is accepted. One who insists repeats what got no answer; others go away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_WITHIN):
            while True:
                with suppress(ConnectionError):
                    answer = await connection.send(request)
                    if answer.status == 202:
                        return UUID(answer.json()["id"])
                if not insists:
                    break
                await asyncio.sleep(_AGAIN_AFTER)
    return None


async def _come_to_rest(tables: Tables, at_least: float = 0.0) -> None:
    """Until all is done and stays so, or for too long nothing was."""
    seen: Progress | None = None
    start = changed = time.monotonic()
    while (now := time.monotonic()) < start + _LONGEST:
        progress = await tables.progress()
        if progress != seen:
            seen, changed = progress, now
        quiet = _QUIET_WHEN_COMPLETE if progress.finished >= progress.orders else _QUIET
        if now > max(changed + quiet, start + at_least):
            break
        await asyncio.sleep(_TICK)
