"""Orders in an open and in a closed loop. Everything is bounded: users, connections, orders, time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from uuid import UUID

from choreo.benchmarks.connection import Answer, Connection
from choreo.benchmarks.users import OVERLOADED, OrderMaker, Refused, User

MOST_CONNECTIONS = 64
MOST_ORDERS = 500_000
ACCEPTED, TURNED_AWAY = "202", "overloaded"
"""Outcomes beside others."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that was accepted. Times are seconds since the epoch."""

    user: User
    id: UUID
    flow: UUID
    scheduled: float
    accepted: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A request for an order, and what came of it: an answer, or why there is none."""

    user: User
    due: float
    """Seconds since the epoch, as below."""
    ended: float
    answer: Answer | OSError

    @property
    def outcome(self) -> str:
        """`TURNED_AWAY`, any other status, or what came of the connection instead."""
        if isinstance(self.answer, OSError):
            return type(self.answer).__name__
        return TURNED_AWAY if OVERLOADED in self.answer.body else str(self.answer.status)

    def placed(self) -> Placed:
        """Raises `Refused` or ConnectionError where it was not accepted."""
        if isinstance(self.answer, OSError):
            raise self.answer
        if self.answer.status != 202:
            raise Refused(
                f"expected 202, got {self.answer.status}: {self.answer.body.decode(errors='replace')}"
            )
        id, flow = UUID(self.answer.json()["id"]), UUID(self.answer.header("flow-id"))
        return Placed(self.user, id, flow, self.due, self.ended)


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
    """As `send_when_due`, where every order has to be accepted: `placed` is told of each."""
    await send_when_due(makers, port, times, lambda sent: placed(sent.placed()))


async def send_when_due(
    makers: Sequence[OrderMaker],
    port: int,
    times: Sequence[float],
    ended: Callable[[Sent], None],
    most_connections: int = MOST_CONNECTIONS,
) -> int:
    """Sends each order at its time, whether or not earlier ones were answered; `ended` is told of each.

    Nothing is omitted when the system stalls: an order that finds no free connection, or that this process
    comes to late, is due when it was due. Returns how many connections it took: each opens only where no
    other is free.
    """
    connections: list[Connection] = []
    idle: list[Connection] = []
    room = asyncio.Semaphore(most_connections)
    start = time.time()

    async def send(maker: OrderMaker, due: float) -> None:
        async with room:
            if not idle:
                connections.append(Connection(port))
                idle.append(connections[-1])
            connection, request = idle.pop(), maker.next()
            answer: Answer | OSError
            try:
                answer = await connection.send(request)
            except OSError as error:
                answer = error
            maker.answered(request, answer)
            idle.append(connection)
        ended(Sent(maker.user, due, time.time(), answer))

    async with asyncio.TaskGroup() as tasks:
        for maker, at in zip(cycle(makers), times, strict=False):
            if (pause := start + at - time.time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(maker, start + at))
    for connection in connections:
        connection.close()
    return len(connections)


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
        self.sent: list[Sent] = []
        """Those that were accepted, each due when its customer came to send it."""

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
            due, request = time.time(), maker.next()
            answer = await connection.send(request)
            maker.answered(request, answer)
            self.sent.append(Sent(maker.user, due, time.time(), answer))
            if answer.status != 202:
                self.sent[-1].placed()  # says why not
            self.accepted += 1
            self._adjust()
        connection.close()

    def _adjust(self) -> None:
        if self._stopped or self.on_its_way < self._window:
            self._room.set()
        else:
            self._room.clear()
