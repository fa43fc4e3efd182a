"""From Kafka to the kernel. The only room that knows Faust.

Faust brings records and holds the place in the group; where reading begins is Postgres' word alone. Each
session starts from `positions`, and a record that is not the next of its partition ends the session: the
assignment is thrown away and everything starts over from there. (One seek under Faust's prefetch would leave
its agent waiting for ever.) Kafka's committed offsets are advisory.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import aiokafka
import faust
import structlog
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.supervisors import CrashingSupervisor
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import clock, positions
from chassis.db import raw_connection
from chassis.health import Part
from chassis.inputs import Heard, PositionGap, read
from chassis.kernel import Kernel
from chassis.positions import Place, Position
from events.codec import Record, UnknownType
from events.fact import Fact

Hears = Mapping[str, frozenset[type[Fact]]]
"""Which facts a service hears, by topic."""

_FETCH_WAIT_MS = 50
"""Faust has 1500: a partition that is not part of the fetch under way would wait that long."""
_PAUSE = 1.0
_PATIENCE = 5.0

log = structlog.get_logger()


class ConsumerDied(Exception):
    """Consumption ended for a reason that waiting does not mend."""


class LogMismatch(Exception):
    """What this service has read is not the log that is there. The message says which and what to do."""


class Consumer:
    def __init__(
        self,
        service: str,
        hears: Hears,
        kernel: Kernel[Any],
        engine: AsyncEngine,
        *,
        bootstrap: str,
        group: str,
        part: Part,
    ) -> None:
        self._service = service
        self._hears = hears
        self._kernel = kernel
        self._engine = engine
        self._bootstrap = bootstrap
        self._group = group
        self._part = part

    async def run(self) -> None:
        """Runs until cancelled. Kafka or the database away is waited out; raises `ConsumerDied` otherwise."""
        while True:
            try:
                await self._session()
            except LogMismatch as mismatch:
                self._say(str(mismatch))
            except PositionGap as gap:
                self._say(f"starting over from the positions: {gap}")
            except ConsumerDied:
                raise
            except Exception as error:
                self._say(f"Kafka at {self._bootstrap} cannot be read: {error or repr(error)}")
            await asyncio.sleep(_PAUSE)

    def _say(self, trouble: str) -> None:
        if trouble != self._part.state.detail:
            log.warning("consumer trouble", detail=trouble)
        self._part.not_ready(trouble)

    async def _session(self) -> None:
        """One assignment, from the positions on, until something ends it."""
        await self._check_log()
        app = _FaustApp(self._group, self._bootstrap, self._next_offsets)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        app.agent(app.topic(*self._hears), supervisor_strategy=CrashingSupervisor)(
            partial(self._listen, ended=ended)
        )
        try:
            await app.start()
            self._part.ready("reads " + ", ".join(sorted(self._hears)))
            watch = asyncio.ensure_future(app.wait_until_stopped())
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
            watch.cancel()
            if ended.done():
                ended.result()
            raise self._verdict(app)
        finally:
            if not ended.done():
                ended.cancel()
            await _stop(app)

    def _verdict(self, app: faust.App) -> Exception:
        reason = app.crash_reason
        if self._kernel.trouble or isinstance(
            reason, KafkaException | aiokafka.errors.KafkaError | OSError | TimeoutError
        ):
            return ConnectionError(str(reason) or repr(reason))
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

    async def _next_offsets(self, places: set[Place]) -> dict[Place, int]:
        async with raw_connection(self._engine) as conn:
            known = {row.place: row.next_offset for row in await positions.read(conn, list(self._hears))}
        return {place: known[place] for place in places}

    async def _check_log(self) -> None:
        """Holds the positions against the log. New partitions are begun at 0.

        Raises `LogMismatch` where the log is another one, or lacks what has not been read.
        """
        cluster = await asyncio.to_thread(_describe, self._bootstrap, sorted(self._hears))
        async with raw_connection(self._engine) as conn:
            known = {row.place: row for row in await positions.read(conn, list(self._hears))}
            for place, there in cluster.items():
                _compare(self._service, there, known.get(place))
            missing = [there.begin for place, there in cluster.items() if place not in known]
            await positions.begin(conn, missing)
            await conn.commit()


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
        async with asyncio.timeout(_PATIENCE):
            await app.stop()
    except Exception as error:
        log.warning("Faust did not stop tidily", error=repr(error))


# The log as it is.


@dataclass(frozen=True, slots=True)
class _Partition:
    begin: Position
    earliest: int
    latest: int


def _describe(bootstrap: str, topics: list[str]) -> dict[Place, _Partition]:
    """Every partition of these topics, with the ids of topic and cluster. Blocks; raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    cluster_id = admin.describe_cluster(request_timeout=_PATIENCE).result().cluster_id
    described = admin.describe_topics(TopicCollection(topics), request_timeout=_PATIENCE)
    places = {}
    for topic, future in described.items():
        description = future.result()
        for info in description.partitions:
            places[topic, info.id] = Position(topic, info.id, 0, str(description.topic_id), cluster_id)

    def ends(spec: Any) -> dict[Place, int]:
        asked = {TopicPartition(topic, partition): spec for topic, partition in places}
        found = admin.list_offsets(asked, request_timeout=_PATIENCE)
        return {(at.topic, at.partition): future.result().offset for at, future in found.items()}

    earliest, latest = ends(OffsetSpec.earliest()), ends(OffsetSpec.latest())
    return {place: _Partition(begin, earliest[place], latest[place]) for place, begin in places.items()}


def _compare(service: str, there: _Partition, known: Position | None) -> None:
    place = f"{there.begin.topic}[{there.begin.partition}]"
    next_offset = known.next_offset if known else 0
    if known and (known.topic_id, known.cluster_id) != (there.begin.topic_id, there.begin.cluster_id):
        raise LogMismatch(
            f"{place} is not the log that {service} has read: its topic or cluster was made anew. "
            "Restore the old one, or rebuild the service's database from this one"
        )
    if next_offset < there.earliest:
        raise LogMismatch(
            f"{place} begins at offset {there.earliest}, and {service} has read only up to {next_offset}: "
            "what lies between is lost. Restore the topic, or rebuild the service's database from the rest"
        )
    if next_offset > there.latest:
        raise LogMismatch(
            f"{place} ends at offset {there.latest}, and {service} has read up to {next_offset}: "
            "the log was cut or restored from an older copy. Restore the newer one"
        )


# Faust, as far as it has to be told.


class _FaustApp(faust.App):  # type: ignore[misc]
    def __init__(self, group: str, bootstrap: str, next_offsets: Any) -> None:
        self.next_offsets = next_offsets
        super().__init__(
            group,
            broker=";".join(f"kafka://{server.strip()}" for server in bootstrap.split(",")),
            autodiscover=False,
            broker_commit_interval=1.0,
            broker_heartbeat_interval=1.0,
            broker_session_timeout=6.0,
            consumer_auto_offset_reset="earliest",
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


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer


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
