"""A service put together: kernel, relay, consumer, health and what it needs to answer over HTTP."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from choreo import errors
from choreo.chassis import clock
from choreo.chassis.agreement import disagreements, require_agreement
from choreo.chassis.backlog import read_backlog
from choreo.chassis.database.connection import Connection, make_engine, raw_connection, unusable
from choreo.chassis.environment import ignore_libpq_variables
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.auth import Verifier
from choreo.chassis.http.body import fingerprint
from choreo.chassis.http.edge import create_app, operations_alone
from choreo.chassis.http.ended_sessions import EndedSessions
from choreo.chassis.http.problems import Problem, internal_error, unavailable
from choreo.chassis.http.protocol import Connections, options_of_uvicorn
from choreo.chassis.http.routes import Router
from choreo.chassis.http.signing_keys import HeardKeys
from choreo.chassis.installed import package_of, room_of
from choreo.chassis.instance import owner_of
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.kafka.consumer import Consumer
from choreo.chassis.kafka.grants import reading
from choreo.chassis.kafka.handover import FactsByTopic
from choreo.chassis.kafka.relay import Relay, partition_of
from choreo.chassis.kafka.topic_log import describe
from choreo.chassis.observe import log
from choreo.chassis.observe.health import Health
from choreo.chassis.observe.meter import Meter
from choreo.chassis.observe.metrics import Metrics
from choreo.chassis.observe.watchdog import cancel, watched
from choreo.chassis.open_files import allow_many
from choreo.chassis.registry import own_port_of, port_of, service_of
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import journal, outbox
from choreo.chassis.transaction.inputs import Failed, KeyReused, Overloaded, Respond, SideWrite, Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.waiting.commit_notifications import CommitNotifications
from choreo.chassis.waiting.turns import AT_ONCE, TooManyBefore
from choreo.chassis.waiting.waiters import Waiters
from choreo.message.catalog import SOURCE_OF_TYPE, topic_of
from choreo.message.decider import Command
from choreo.message.fact import Fact
from choreo.message.signing_key import SigningKeyPublished

S = TypeVar("S")
Job = Callable[[], Awaitable[None]]

_MEASURE_SECONDS = 5.0
_CONNECTIONS = AT_ONCE + 4
"""The four are for the relay, the listening, and the short looks of all other jobs: no reader takes them."""
_MORE_ACCEPTED = 15
"""In a round of the event loop. Of each socket uvloop accepts one, and whoever is new would stand behind all
that come again and again.
"""
_LOOK_TIMEOUT_SECONDS = 2.0
_KERNEL_CONNECTIONS = 3
"""Its own: a transaction, a look for first answers, a look for locks. No reader takes them from it."""

_AWAY = unavailable(
    "The database cannot be used right now. The request may or may not have been carried out."
)
_PROBLEMS = {
    Overloaded: unavailable(
        "More was accepted than can be finished in time. This request was not carried out.",
        code="overloaded",
        retry_after=2,
    ),
    Unavailable: _AWAY,
    psycopg.OperationalError: _AWAY,
    OperationalError: _AWAY,
    InterfaceError: _AWAY,
    PoolTimeout: _AWAY,
    TooManyBefore: unavailable("Too many are read at once; try again soon."),
    KeyReused: Problem(
        422, "idempotency_key_reused", "This Idempotency-Key stands for a request with another body."
    ),
    Failed: internal_error(),
}


class Runtime(Generic[S]):
    """One process of one service. `jobs` run beside the kernel for as long as it does."""

    def __init__(
        self,
        service: Service[S],
        settings: Settings,
    ) -> None:
        self.service = service.name
        self._waiting = service.waiting
        self.settings = settings
        url = _required(settings.database_urls.get(self.service))
        self.engine = make_engine(url, pool_size=_CONNECTIONS)
        self._kernel_engine = make_engine(url, pool_size=_KERNEL_CONNECTIONS, name="kernel")
        self.health = Health()
        self.metrics = Metrics()
        self.meter = Meter(self.metrics.registry)
        self.access = settings.kafka_access(self.service)
        self.kernel = Kernel(
            service.decider,
            PostgresStore(self._kernel_engine, service.store),
            partition_of=self.partition_of,
            clock=clock.now,
            meter=self.meter,
            job=self.health.job("kernel", serving=True),
        )
        notifications = CommitNotifications(self.engine, self.kernel.waiters)
        self.watched: dict[str, Job] = {}
        """By the names under which they say how they get on."""
        self.watch("kernel", self.kernel.run)
        self.jobs: list[Job] = [
            notifications.listen,
            notifications.tell,
            self._measure,
        ]
        self.kernel.on_commit.append(notifications.notify)
        self.health.probe("database", self._probe_database, serving=True)
        self._sources = service.sources
        self.connect(service)
        heard_keys = HeardKeys(
            self.engine,
            self.kernel.waiters,
            clock.now,
            is_behind=partial(self._is_behind, SOURCE_OF_TYPE[SigningKeyPublished.__name__]),
        )
        self._verifier = Verifier(
            heard_keys, sessions=EndedSessions(self.engine, self.kernel.waiters, clock.now)
        )

    def connect(self, service: Service[S]) -> None:
        """How facts go out and come in: by Kafka. Another composition has other ways."""
        _required(self.settings.kafka_bootstrap_servers)
        self.publish()
        self.consume(service)

    def publish(self) -> None:
        relay = Relay(
            self.topic_of(self.service),
            self.settings.partitions,
            self.engine,
            self.access,
            owner=owner_of(self.settings.instance),
            job=self.health.job("relay"),
            meter=self.meter,
        )
        self.watch("relay", relay.run)
        self.kernel.on_facts.append(relay.wake)
        self.health.probe("broker", relay.probe)

    def consume(self, service: Service[S]) -> None:
        topics = _by_topic(self.settings.topic_prefix, service.consumes)
        if not topics:
            return
        group = service.group(self.settings.topic_prefix)
        consumer = Consumer(
            self.service,
            topics,
            self.kernel,
            self.engine,
            access=self.access,
            group=group,
            instance=self.settings.instance,
            needs=reading(topics, group),
            job=self.health.job("consumer"),
            meter=self.meter,
        )
        self.watch("consumer", consumer.run)

    def topic_of(self, service: str) -> str:
        return self.settings.topic_prefix + topic_of(service)

    def watch(self, name: str, run: Job) -> None:
        """Runs it beside the kernel, and begins it anew where its job of this name does not get on."""
        self.watched[name] = partial(watched, run, self.health.job(name), name)

    async def ask(
        self,
        command: Command,
        respond: Respond,
        *,
        body: BaseModel | None = None,
        side_write: SideWrite | None = None,
        admit: bool = True,
    ) -> Answer:
        """The answer to a command, which names the flow that follows from it."""
        reply = await self.kernel.ask(
            command, respond, fingerprint=fingerprint(body), side_write=side_write, admit=admit
        )
        assert reply is not None, "a command that comes over HTTP is always answered"
        headers = {**reply.headers, "Flow-Id": str(command.cause.correlation_id)}
        return Answer(reply.status, reply.body, headers)

    def catch_up_of(self, other: str) -> CatchUp:
        """Whether this service has read what another one published."""
        topic = self.topic_of(other)
        return CatchUp(
            self.service,
            topic,
            self.engine,
            describe=partial(describe, self.access, [topic]),
            partition_of=self.partition_of,
        )

    async def unpublished_since(self, conn: Connection) -> Mapping[int, datetime]:
        """By partition the age of the oldest fact without which nobody else can decide."""
        return await outbox.unpublished_since(conn)

    def partition_of(self, key: str) -> int:
        return partition_of(key, self.settings.partitions)

    def app(self, *routers: Router) -> FastAPI:
        return create_app(
            self.service,
            routers,
            verifier=self._verifier,
            flow_applied=self._flow_applied,
            turns=self.kernel.waiters.turns,
            health=self.health,
            metrics=self.metrics,
            hosts=self.settings.hosts.split(","),
            translate=_PROBLEMS,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Future[None]"]:
        """Runs every job. The future is resolved with the error of the first job that dies."""
        died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and not died.done():
                died.set_exception(task.exception() or RuntimeError("a job ended"))

        tasks = [asyncio.ensure_future(job()) for job in [*self.watched.values(), *self.jobs]]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield died
        finally:
            for task in reversed(tasks):  # whoever still has something to write needs the kernel
                await cancel(task)
            died.cancel()
            await self.engine.dispose()
            await self._kernel_engine.dispose()

    async def _flow_applied(self, user_id: UUID, flow: UUID, seconds: int) -> bool:
        async def look() -> bool:
            async with raw_connection(self.engine) as conn:
                return await journal.flow_applied(conn, str(user_id), flow)

        return await self.kernel.waiters.until(str(user_id), seconds, look, enough=bool, of=flow)

    async def _probe_database(self) -> None:
        async with self.engine.connect() as conn:
            await conn.execute(text("SELECT 1"))

    async def _is_behind(self, other: str) -> bool:
        """Whether something that service published is not applied here; also where that cannot be told."""
        if other not in self._sources:
            return False
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_SECONDS):
                read = await self.catch_up_of(other).read(0)
        except Exception as error:
            structlog.get_logger().debug("cannot look how far the log is read", error=repr(error))
            return True
        return not read.issuperset(range(self.settings.partitions))

    async def _measure(self) -> None:
        """Keeps the gauges of what waits up to date."""
        while True:
            try:
                async with raw_connection(self.engine) as conn:
                    backlog = await read_backlog(conn, self._waiting)
                for (count, since), number, age in (
                    (backlog.unpublished, self.meter.unpublished, self.meter.unpublished_age),
                    (backlog.parked, self.meter.parked, self.meter.parked_age),
                    (backlog.waiting, self.meter.waiting, self.meter.waiting_age),
                ):
                    number.set(count)
                    age.set((clock.now() - since).total_seconds() if since else 0)
            except Exception as error:
                structlog.get_logger().debug("cannot measure", error=repr(error))
            await asyncio.sleep(_MEASURE_SECONDS)


Build = Callable[[Settings], tuple[Runtime[Any], FastAPI]]


def build_of(name: str, runtime_of: type[Runtime[Any]] = Runtime) -> Build:
    """What puts a service together: its `app.py`, where something runs beside the kernel, or this."""
    if find_spec(f"{package_of(name)}.app"):
        return partial(room_of(name, "app").build, runtime_of=runtime_of)

    def build(settings: Settings) -> tuple[Runtime[Any], FastAPI]:
        runtime = runtime_of(service_of(name, settings), settings)
        return runtime, runtime.app(room_of(name, "api").router(runtime))

    return build


def serve(name: str, build: Build | None = None) -> None:
    """Runs a service until it is told to stop. Exits 1 where a job died: the supervisor starts it anew."""
    ignore_libpq_variables()
    try:
        settings = Settings()
        require_agreement(disagreements(service_of(name, settings)))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        sys.exit(f"{name}: the setting {first['loc'][0]} is wrong: {first['msg']}")
    except errors.Unavailable as error:
        sys.exit(f"{name}: {error}")
    log.configure(name, settings.log_level)
    _require_sessions(name, settings)
    allow_many()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_serve(name, build or build_of(name), settings)):
            sys.exit(1)


def _require_sessions(name: str, settings: Settings) -> None:
    """Ends the process where the database is behind a pool. One that is away may come back."""
    try:
        reason = unusable(_required(settings.database_urls.get(name)))
    except psycopg.Error as error:
        reason = str(error) if "startup parameter" in str(error) else None
    if reason:
        sys.exit(f"{name}: {name.upper()}_DATABASE_URL cannot be used: {reason}")


async def _serve(name: str, build: Build, settings: Settings) -> bool:
    own = _listening(name, settings, own_port_of(name, settings), settings.own_http_fd)
    if settings.instance is None:
        instance = f"{socket.gethostname()[:90]}:{own.getsockname()[1]}"
        settings = settings.model_copy(update={"instance": instance})
    runtime, app = build(settings)
    shared = _listening(name, settings, port_of(name, settings), settings.http_fd)
    # dup() sets the mode anew, for all processes that share the socket: they would block in accept().
    shared.setblocking(False)
    connections = Connections(settings.connections, runtime.metrics.registry)
    config = uvicorn.Config(
        operations_alone(app, own.getsockname()[1]),
        **options_of_uvicorn(connections),
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config, runtime.kernel.waiters)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops serving and then raises the signal once more: there is still the rest to be stopped.
        signal.signal(number, lambda *_: None)
    gc.collect()
    gc.freeze()  # what is there now stays: no use looking at it again and again
    async with runtime.running() as died:

        def give_up(death: "asyncio.Future[None]") -> None:
            if not death.cancelled():
                structlog.get_logger().error("a job died, stopping", exc_info=death.exception())
            server.should_exit = True

        died.add_done_callback(give_up)
        await server.serve(sockets=[shared, *(shared.dup() for _ in range(_MORE_ACCEPTED)), own])
        return not died.done()


def _listening(name: str, settings: Settings, port: int, handed_over: int | None) -> socket.socket:
    """The socket handed over. A process that nobody supervises binds its port itself."""
    if handed_over is not None:
        return socket.socket(fileno=handed_over)
    try:
        return socket.create_server((settings.http_host, port))
    except OSError as error:
        sys.exit(f"{name}: {error.strerror}")


class _Server(uvicorn.Server):
    """Nobody who waits, or listens to a stream, holds up its end."""

    def __init__(self, config: uvicorn.Config, waiters: Waiters) -> None:
        super().__init__(config)
        self._waiters = waiters

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._waiters.close()
        await super().shutdown(sockets)


def _by_topic(prefix: str, consumed: Iterable[type[Fact]]) -> FactsByTopic:
    topics: dict[str, frozenset[type[Fact]]] = {}
    for fact in consumed:
        topic = prefix + topic_of(SOURCE_OF_TYPE[fact.__name__])
        topics[topic] = topics.get(topic, frozenset()) | {fact}
    return topics


def _required(value: str | None) -> str:
    if not value:
        raise SystemExit(
            "KAFKA_BOOTSTRAP_SERVERS and the service's ..._DATABASE_URL must be set; `choreo up` does."
        )
    return value
