"""One process of a service: the real kernel with the real functions, and the jobs beside it."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from random import Random
from typing import Any
from uuid import UUID

from prometheus_client import CollectorRegistry

from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe.meter import Meter
from choreo.chassis.service import Service
from choreo.chassis.transaction.held_back import HeldBack
from choreo.chassis.transaction.inputs import Decided, Reply
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.catalog import SOURCE_OF_TYPE, topic_of
from choreo.message.decider import Command
from choreo.message.fact import Fact
from choreo.simulation.consumer import Consumer
from choreo.simulation.database import Database
from choreo.simulation.jobs import Mailer, Relay, Timers
from choreo.simulation.log import Log
from choreo.simulation.loop import Process
from choreo.simulation.store import MemoryStore


class Replica:
    def __init__(
        self,
        name: str,
        service: Service[Any],
        database: Database,
        log: Log,
        *,
        partitions: int,
        clock: Callable[[], datetime],
        mail: Callable[..., Any],
        chance: Random,
        died: Callable[[str], None],
    ) -> None:
        self.process = Process(name)
        self.service = service
        self.asking: dict[asyncio.Future[Reply], None] = {}
        """Whose clients wait for an answer of this process."""
        self.store: MemoryStore[Any] = MemoryStore(database, lambda: Process("backend").context)
        self.kernel: Kernel[Any] = Kernel(
            service.decider,
            self.store,
            partition_of=lambda key: partition_of(key, partitions),
            clock=clock,
            meter=_meter(service.name),
        )
        self.kernel._held_back = HeldBack(asyncio.get_running_loop().time)
        self.consumer = Consumer(self.process, consumed(service), self.kernel, database, log, chance)
        relay = Relay(topic_of(service.name), partitions, database, log)
        self.kernel.on_facts.append(relay.wake)
        jobs = [self.kernel.run, relay.run]
        if service.sources:
            jobs.append(self.consumer.run)
        if service.sends_mail:
            jobs.append(Mailer(database, self.kernel, self.command, mail).run)
        if "ExpireOrder" in self._commands:
            of_key = self.kernel._transaction._partition_of
            jobs.append(Timers(database, self.kernel, log, self.command, clock, of_key).run)
        for job in jobs:
            self.process.begin(job()).add_done_callback(lambda task: _tell(task, died))

    @property
    def _commands(self) -> Mapping[str, Callable[..., Command]]:
        return {command.__name__: command for command in self.service.commands}

    def command(self, name: str, **values: Any) -> Command:
        return self._commands[name](**values)

    def ask(self, command: Command, fingerprint: bytes) -> "asyncio.Future[Reply]":
        """As over HTTP: who asks learns nothing where the process dies meanwhile."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.asking[answer] = None

        async def take() -> None:
            try:
                reply = await self.kernel.ask(command, answered, fingerprint=fingerprint)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    assert reply
                    answer.set_result(reply)
            self.asking.pop(answer, None)

        self.process.begin(take())
        return answer

    def hang_up(self) -> None:
        """Its sockets are closed by the machine."""
        self.store.hang_up()
        for answer in list(self.asking):
            if not answer.done():
                answer.set_exception(ConnectionError("the process is gone"))
        self.asking.clear()


def answered(decided: Decided) -> Reply:
    """As the services' HTTP does it, by the contract."""
    if decided.refusal:
        return Reply(409 if decided.refusal.remembered else 404, type(decided.refusal).__name__.encode())
    (event,) = decided.events[:1]
    return Reply(201, str(_id_of(event.data, event.id)).encode())


def _id_of(fact: Fact, id: UUID) -> UUID:
    """Of the user, the entry or the order."""
    for field in ("entry_id", "order_id", "user_id"):
        if hasattr(fact, field):
            found: UUID = getattr(fact, field)
            return found
    return id


def consumed(service: Service[Any]) -> dict[str, frozenset[type[Fact]]]:
    """By topic."""
    topics: dict[str, set[type[Fact]]] = {}
    for fact in service.consumes:
        topics.setdefault(topic_of(SOURCE_OF_TYPE[fact.__name__]), set()).add(fact)
    return {topic: frozenset(facts) for topic, facts in topics.items()}


@cache
def _meter(service: str) -> Meter:
    """Nobody reads it."""
    return Meter(CollectorRegistry())


def _tell(task: "asyncio.Task[None]", died: Callable[[str], None]) -> None:
    if not task.cancelled() and task.exception():
        died(f"a job died: {task.exception()!r}")
