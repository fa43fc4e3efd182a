"""Orders in an open and in a closed loop. Everything is bounded: users, connections, orders, time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from uuid import UUID

from choreo.benchmarks.connection import Answer, Connection
from choreo.benchmarks.users import OrderMaker, Refused, User

MOST_CONNECTIONS = 64
MOST_ORDERS = 500_000


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that was accepted. Times are seconds since the epoch."""

    user: User
    id: UUID
    flow: UUID
    scheduled: float
    accepted: float


def schedule(rate: float, seconds: float, seed: int = 1) -> list[float]:
    """When to send, in seconds from the start: independent customers (Poisson), the same ones each time."""
    random = Random(seed)
    times: list[float] = []
    at = random.expovariate(rate)
    while at < seconds and len(times) < MOST_ORDERS:
        times.append(at)
        at += random.expovariate(rate)
    return times


async def open_loop(
    makers: Sequence[OrderMaker],
    port: int,
    times: Sequence[float],
    placed: Callable[[Placed], None],
) -> None:
    """Sends each order at its time, whether or not earlier ones were answered; `placed` is told of each.

    Nothing is omitted when the system stalls: an order that finds no free connection keeps its time.
    """
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(MOST_CONNECTIONS):
        idle.put_nowait(Connection(port))
    start = time.time()

    async def send(maker: OrderMaker, at: float) -> None:
        connection = await idle.get()
        try:
            answer = await connection.send(maker.next())
        finally:
            idle.put_nowait(connection)
        id, flow = _taken(answer)
        placed(Placed(maker.user, id, flow, start + at, time.time()))

    async with asyncio.TaskGroup() as tasks:
        for maker, at in zip(cycle(makers), times, strict=False):
            if (pause := start + at - time.time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(maker, at))
    while not idle.empty():
        idle.get_nowait().close()


class ClosedLoop:
    """Customers who each order again as soon as they are answered, as long as not too much is on its way.

    On its way is what was accepted and is not finished yet, as far as `has_finished` was told. No order is
    begun while that is `window` or more: what is accepted faster than it is finished only makes a queue.
    """

    def __init__(self, makers: Sequence[OrderMaker], port: int, connections: int, window: int) -> None:
        self._makers = makers
        self._port = port
        self._connections = connections
        self._window = window
        self._room = asyncio.Event()
        self._stopped = False
        self.accepted = 0
        self.finished = 0

    @property
    def on_its_way(self) -> int:
        return self.accepted - self.finished

    def has_finished(self, count: int) -> None:
        self.finished = count
        self._adjust()

    def stop(self) -> None:
        """Orders on their way are still answered."""
        self._stopped = True
        self._room.set()

    async def run(self) -> None:
        """Until it is stopped. Raises `Refused` or ConnectionError."""
        self._adjust()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._connections):
                tasks.create_task(self._customer(self._makers[number :: self._connections]))

    async def _customer(self, makers: Sequence[OrderMaker]) -> None:
        connection = Connection(self._port)
        for maker in cycle(makers):
            await self._room.wait()
            if self._stopped or self.accepted >= MOST_ORDERS:
                break
            answer = await connection.send(maker.next())
            if answer.status != 202:
                _taken(answer)
            self.accepted += 1
            self._adjust()
        connection.close()

    def _adjust(self) -> None:
        if self._stopped or self.on_its_way < self._window:
            self._room.set()
        else:
            self._room.clear()


def _taken(answer: Answer) -> tuple[UUID, UUID]:
    """The order's id and its flow's."""
    if answer.status != 202:
        raise Refused(f"expected 202, got {answer.status}: {answer.body.decode(errors='replace')}")
    return UUID(answer.json()["id"]), UUID(answer.header("flow-id"))
