"""From Kafka to the kernel. The only room that knows Faust.

Faust brings records and holds the place in the group; where reading begins is Postgres' word alone. Each
session starts from `positions`, and a record that is not the next of its partition ends the session: the
assignment is thrown away and everything starts over from there. (One seek under Faust's prefetch would leave
its agent waiting for ever.) Kafka's committed offsets are advisory.

Whether the log is the one that was read is looked at when a session begins, at every assignment, when Kafka
says that what is next is not there, and every `_WATCH` seconds. A fetch names its topic and not the topic's
id: where a topic is made anew so quickly that Kafka never says it is gone, and gets as many records as were
read, what comes after those is applied until the next look.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial
from typing import Any, Protocol

import aiokafka
import faust
import psycopg
import structlog
from aiokafka.consumer import fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.supervisors import CrashingSupervisor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.grants import AccessDenied, Grant
from choreo.chassis.kafka.lenient_records import AnyRecords
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, compare, describe
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import Heard, PositionGap, read
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.message.codec import Record, UnknownType
from choreo.message.fact import Fact

Hears = Mapping[str, frozenset[type[Fact]]]
"""Which facts a service hears, by topic."""

_FETCH_WAIT_MS = 50
"""Faust has 1500: a partition that is not part of the fetch under way would wait that long."""
_WATCH = 5.0
_PAUSE = 1.0
_STOP_TIMEOUT_SECONDS = 5.0

_DATABASE_AWAY = (psycopg.Error, SQLAlchemyError)
_KAFKA_AWAY = (aiokafka.errors.KafkaError, OSError, TimeoutError)

log = structlog.get_logger()


class ConsumerDied(Exception):
    """Consumption ended for a reason that waiting does not mend."""


class Consumer:
    def __init__(
        self,
        service: str,
        hears: Hears,
        kernel: Kernel[Any],
        engine: AsyncEngine,
        *,
        access: KafkaAccess,
        group: str,
        needs: Collection[Grant],
        job: Job,
        meter: Meter,
    ) -> None:
        self._service = service
        self._hears = hears
        self._kernel = kernel
        self._engine = engine
        self._access = access
        self._group = group
        self._needs = needs
        self._job = job
        self._meter = meter

    async def run(self) -> None:
        """Runs until cancelled. Kafka or the database away is waited out; raises `ConsumerDied` otherwise."""
        while True:
            try:
                await self._session()
            except (LogMismatch, AccessDenied) as told:
                self._say(str(told))
            except PositionGap as gap:
                self._say(f"starting over from the positions: {gap}")
            except ConsumerDied:
                raise
            except _DATABASE_AWAY as error:
                self._say(f"the database cannot say how far was read: {type(error).__name__}")
            except Exception as error:
                self._say(f"Kafka at {self._access.bootstrap} cannot be read: {str(error) or repr(error)}")
            await asyncio.sleep(_PAUSE)

    def _say(self, trouble: str) -> None:
        if trouble != self._job.state.cause:
            log.warning("consumer trouble", detail=trouble)
        self._job.held_up(trouble)

    async def _session(self) -> None:
        """One assignment, from the positions on, until something ends it."""
        await self._check_log()
        app = _FaustApp(self._group, self._access, self._next_offsets)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        app.agent(app.topic(*self._hears), supervisor_strategy=CrashingSupervisor)(
            partial(self._listen, ended=ended)
        )
        watch = asyncio.ensure_future(self._watch_log())
        try:
            await app.start()
            self._job.got_on()
            stopped = asyncio.ensure_future(app.wait_until_stopped())
            await asyncio.wait({stopped, ended, watch}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            for end in (ended, watch):
                if end.done():
                    end.result()
            raise self._verdict(app)
        finally:
            ended.cancel()
            watch.cancel()
            await _stop(app)

    def _verdict(self, app: faust.App) -> BaseException:
        reason = app.crash_reason
        if isinstance(reason, aiokafka.errors.OffsetOutOfRangeError):
            return PositionGap(f"Kafka does not have what is next: {reason}")
        if isinstance(reason, (LogMismatch, AccessDenied, *_DATABASE_AWAY, *_KAFKA_AWAY)):
            return reason
        if self._kernel.trouble:
            return ConnectionError(repr(reason))
        return ConsumerDied(f"Faust stopped: {reason!r}")

    async def _listen(self, stream: "_Stream", *, ended: "asyncio.Future[None]") -> None:
        async for event in stream.noack().events():
            await self._kernel.room()
            heard = self._heard(event.message)
            heard.done.add_done_callback(partial(_finished, event=event, ended=ended))
            self._kernel.hear(heard)

    def _heard(self, message: "_Message") -> Heard:
        headers = message.headers
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        record = Record(message.key, message.value, pairs)
        try:
            event, error = read(record, self._hears[message.topic])
        except UnknownType as unknown:
            event, error = None, None
            log.info("skipped", detail=str(unknown), topic=message.topic, offset=message.offset)
        done = asyncio.get_running_loop().create_future()
        return Heard(
            message.topic, message.partition, message.offset, record, event, error, clock.now(), done
        )

    async def _next_offsets(self, places: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to begin with what Kafka has just assigned. Raises `LogMismatch`."""
        known = await self._check_log()
        return {place: known.get(place, 0) for place in places}

    async def _watch_log(self) -> None:
        """Raises what `_check_log` does, when the log is another one or a grant is taken away."""
        while True:
            await asyncio.sleep(_WATCH)
            try:
                await self._check_log()
            except (*_DATABASE_AWAY, *_KAFKA_AWAY) as error:  # the health page has parts that say so
                log.debug("cannot look at the log", error=repr(error))

    async def _check_log(self) -> dict[TopicPartition, int]:
        """Holds the positions against the log, measures the lag, and gives the next offsets.

        New partitions are begun at 0. The positions are read before the log is looked at: what is read and
        written meanwhile is never taken for a log that was cut. Raises `LogMismatch` where the log is another
        one, or lacks what has not been read, and `AccessDenied` where it may not be read.
        """
        async with raw_connection(self._engine) as conn:
            known = {row.place: row for row in await positions.read(conn, list(self._hears))}
        there = await describe(self._access, sorted(self._hears), self._needs)
        self._measure_lag(known, there)
        for place, partition in there.items():
            compare(self._service, partition, known.get(place))
        missing = [partition.begin for place, partition in there.items() if place not in known]
        if missing:
            async with raw_connection(self._engine) as conn:
                await positions.begin(conn, missing)
                await conn.commit()
        return {place: position.next_offset for place, position in known.items()}

    def _measure_lag(
        self, known: Mapping[TopicPartition, Position], there: Mapping[TopicPartition, PartitionLog]
    ) -> None:
        lag = dict.fromkeys(self._hears, 0)
        for place, partition in there.items():
            read = known[place].next_offset if place in known else 0
            lag[partition.begin.topic] += max(0, partition.latest - read)
        for topic, records in lag.items():
            self._meter.lag.labels(topic).set(records)


def _finished(done: "asyncio.Future[None]", *, event: "_Event", ended: "asyncio.Future[None]") -> None:
    """The transaction is over: tell Faust, or end the session."""
    if done.cancelled() or ended.done():
        return
    error = done.exception()
    if error is None:
        event.ack()
    else:
        ended.set_exception(error)


async def _stop(app: faust.App) -> None:
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
            await app.stop()
    except Exception as error:
        log.warning("Faust did not stop tidily", error=repr(error))


# Faust, as far as it has to be told.


class _FaustApp(faust.App):  # type: ignore[misc]
    def __init__(self, group: str, access: KafkaAccess, next_offsets: Any) -> None:
        self.next_offsets = next_offsets
        super().__init__(
            group,
            broker=";".join(f"kafka://{server.strip()}" for server in access.bootstrap.split(",")),
            broker_credentials=_credentials(access),
            autodiscover=False,
            broker_commit_interval=1.0,
            broker_heartbeat_interval=1.0,
            broker_session_timeout=6.0,
            consumer_auto_offset_reset="none",
            agent_supervisor=CrashingSupervisor,
            key_serializer="raw",
            value_serializer="raw",
            stream_wait_empty=False,
            table_standby_replicas=0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
        )

    def _create_directories(self) -> None:
        """None: there are no tables, so nothing would ever be in them."""

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)


def _credentials(access: KafkaAccess) -> Any:
    if sasl := access.faust():
        return faust.SASLCredentials(**sasl)
    context = access.ssl_context
    return faust.SSLCredentials(context) if context else None


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        fetcher.MemoryRecords = AnyRecords
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        """Until Faust has sought, aiokafka goes by Kafka's offsets: there may be none, or nothing there."""
        try:
            return await super()._fetch_records(*args, **kwargs)
        except (aiokafka.errors.NoOffsetForPartitionError, aiokafka.errors.OffsetOutOfRangeError):
            if self.consumer.flow_active:
                raise
            return {}


class _FaustConsumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust asks where to begin, at every assignment. Not Kafka's word but Postgres' is given."""
        assignment = self.assignment()
        offsets = await self.app.next_offsets({(tp.topic, tp.partition) for tp in assignment})
        wanted = {tp: offsets[tp.topic, tp.partition] for tp in assignment}
        await self.seek_wait(wanted)
        return wanted


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _FaustConsumer


class _Message(Protocol):
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any


class _Event(Protocol):
    message: _Message

    def ack(self) -> bool: ...


class _Stream(Protocol):
    """What is used of Faust's streams: events that are acknowledged by hand."""

    def noack(self) -> "_Stream": ...

    def events(self) -> AsyncIterator[_Event]: ...
