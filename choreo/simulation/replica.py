"""One process of a service: the real kernel, relay, consumer, mailer, timers and admission, each on what
stands here for Postgres, Kafka and a mail server.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from choreo.chassis.installed import room_of
from choreo.chassis.instance import owner_of
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.kafka.consumer import Consumer
from choreo.chassis.kafka.relay import Relay, partition_of
from choreo.chassis.kafka.topic_log import describe
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Counts, Meter
from choreo.chassis.service import Service
from choreo.chassis.transaction.held_back import HeldBack
from choreo.chassis.transaction.inputs import Decided, Reply
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.step import Decider
from choreo.message.catalog import SOURCE_OF_TYPE, topic_of
from choreo.message.decider import Command
from choreo.message.fact import Fact
from choreo.simulation.database import Database
from choreo.simulation.kafka import Access
from choreo.simulation.loop import Process
from choreo.simulation.sql import MemoryConnection, MemoryEngine
from choreo.simulation.store import MemoryStore


class Role:
    """What all processes of a service have in common, in all worlds."""

    def __init__(self, service: Service[Any]) -> None:
        self.service = service
        self.consumed = _consumed(service)
        self.commands: Mapping[str, Callable[..., Command]] = {
            command.__name__: command for command in service.commands
        }
        self.meter = _Unread()

    def guarded_by(self, guard: Callable[[Decider[Any]], Decider[Any]]) -> "Role":
        """The same with another decider."""
        role = copy(self)
        role.service = replace(self.service, decider=guard(self.service.decider))
        return role


class _Unread(Meter):
    """Nobody reads what is measured here."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        for name, metric in vars(self).items():
            if isinstance(metric, MetricWrapperBase):
                setattr(self, name, _METRIC)

    def transaction(self, inputs: int) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING

    def count(self, *_: Counts, **__: Counts) -> None: ...


class _Metric:
    def labels(self, *_: str) -> "_Metric":
        return self

    def inc(self, amount: float = 1) -> None: ...

    def set(self, value: float) -> None: ...


_METRIC = _Metric()
_NOTHING = nullcontext()


class Replica:
    def __init__(
        self,
        process: Process,
        number: int,
        role: Role,
        database: Database,
        access: Access,
        *,
        partitions: int,
        clock: Callable[[], datetime],
        database_clock: Callable[[], datetime],
        mail_server: Callable[[Process], Any],
        died: Callable[[str], None],
    ) -> None:
        self.process = process
        self.number = number
        self.role = role
        self.asking: dict[asyncio.Future[Reply], None] = {}
        """Whose clients wait for an answer of this process."""
        self.store: MemoryStore[Any] = MemoryStore(
            database,
            lambda: Process("backend").context,
            lambda opened: MemoryConnection(self.store, opened, database_clock),
        )
        self._engine = cast(Any, MemoryEngine(self.store, database_clock))
        self._access = cast(Any, access)
        self._clock = clock
        service = role.service
        of_key = partial(partition_of, partitions=partitions)
        self.kernel: Kernel[Any] = Kernel(
            service.decider, self.store, partition_of=of_key, clock=clock, meter=role.meter
        )
        self.kernel._held_back = HeldBack(asyncio.get_running_loop().time)
        relay = Relay(
            topic_of(service.name),
            partitions,
            self._engine,
            self._access,
            owner=owner_of(None),
            job=Job(clock),
            meter=role.meter,
        )
        self.kernel.on_facts.append(relay.wake)
        self.consumer_job = Job(clock)
        self.admission: Any = None
        jobs: list[Callable[[], Awaitable[None]]] = [self.kernel.run, relay.run]
        if role.consumed:
            jobs.append(self._consumer().run)
        if service.sends_mail:
            jobs.append(self._mailer(mail_server).run)
        if "ExpireOrder" in role.commands:
            jobs += self._timers(of_key)
        for job in jobs:
            process.begin(_run(job)).add_done_callback(lambda task: _tell(task, died))

    def _consumer(self) -> Consumer:
        name = self.role.service.name
        return Consumer(
            name,
            self.role.consumed,
            self.kernel,
            self._engine,
            access=self._access,
            instance=None,
            group=name,
            needs=(),
            job=self.consumer_job,
            meter=self.role.meter,
        )

    def _mailer(self, mail_server: Callable[[Process], Any]) -> Any:
        mailer = room_of(self.role.service.name, "mailer").Mailer(
            self.kernel, self._engine, "smtp://memory", Job(self._clock), owner_of(None)
        )
        mailer._server = mail_server(self.process)
        self.kernel.on_commit.append(lambda keys: mailer.wake())
        return mailer

    def _timers(self, of_key: Callable[[str], int]) -> list[Callable[[], Awaitable[None]]]:
        name, clock = self.role.service.name, self._clock
        topic = topic_of("billing")
        caught_up = CatchUp(
            name,
            topic,
            self._engine,
            describe=partial(describe, self._access, [topic]),
            partition_of=of_key,
        )
        deadline = timedelta(seconds=cast(Any, self.role.service.settings).decide_within)
        expiry = room_of(name, "expiry").Expiry(
            self.kernel, self._engine, caught_up, clock, deadline, Job(clock)
        )
        self.admission = room_of(name, "admission").Admission(
            self._engine, clock, deadline, of_key, Job(clock)
        )
        return [expiry.run, self.admission.run]

    def command(self, name: str, **values: Any) -> Command:
        return self.role.commands[name](**values)

    def ask(self, command: Command, fingerprint: bytes) -> "asyncio.Future[Reply]":
        """As over HTTP: who asks learns nothing where the process dies meanwhile."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.asking[answer] = None

        async def take() -> None:
            try:
                placed = type(command).__name__ == "PlaceOrder"
                admit = not placed or self.admission.admits(command.key)
                reply = await self.kernel.ask(command, answered, fingerprint=fingerprint, admit=admit)
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

    def forget(self) -> None:
        """It is over."""
        for part in (self.process, self.store, self.kernel, self):
            vars(part).clear()


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


def _consumed(service: Service[Any]) -> dict[str, frozenset[type[Fact]]]:
    """By topic."""
    topics: dict[str, set[type[Fact]]] = {}
    for fact in service.consumes:
        topics.setdefault(topic_of(SOURCE_OF_TYPE[fact.__name__]), set()).add(fact)
    return {topic: frozenset(facts) for topic, facts in topics.items()}


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()


def _tell(task: "asyncio.Task[None]", died: Callable[[str], None]) -> None:
    if not task.cancelled() and task.exception():
        died(f"a job died: {task.exception()!r}")
