"""From Kafka to the kernel.

Faust brings records and holds the place in the group; where reading begins is Postgres' word alone. Each
session starts from `positions`, and a record that is not the next of its partition ends the session: the
assignment is thrown away and everything starts over from there. (One seek under Faust's prefetch would leave
its agent waiting for ever.) Kafka's committed offsets are advisory.

Whether the log is the one that was read is looked at when a session begins, at every assignment, when Kafka
says that what is next is not there, and every `_WATCH` seconds; and what lies before what another leader has
appended, before that is read on. A fetch names its topic and not the topic's id: where a topic is made anew
so quickly that Kafka never says it is gone, and gets as many records as were read, what comes after those is
applied until the next look.

The same look sees whether reading gets on. A session with something to read that does not read it is begun
anew, whatever the reason.
"""

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Any

import aiokafka
import faust
import psycopg
import structlog
from aiokafka.errors import LeaderNotAvailableError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import raw_connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import FetchedRecord
from choreo.chassis.kafka.cluster import new_client_id
from choreo.chassis.kafka.faust_internals import ChunkedApp
from choreo.chassis.kafka.grants import AccessDenied, Grant, asking, require
from choreo.chassis.kafka.handover import FactsByTopic, Handover, Log, Positions, Stalled, Unread
from choreo.chassis.kafka.log_reader import retrying
from choreo.chassis.kafka.topic_log import (
    LogMismatch,
    compare,
    compare_last_read,
    described,
    refuse_compacted,
)
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import PositionGap
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Expected, TopicPartition

_WATCH = 5.0
_PAUSE = 1.0
_STOP_TIMEOUT_SECONDS = 5.0
_START_TIMEOUT_SECONDS = 75.0
"""For joining the group: longer than a rebalance may take."""

_DATABASE_AWAY = (psycopg.Error, SQLAlchemyError)
_KAFKA_AWAY = (aiokafka.errors.KafkaError, OSError, TimeoutError)

log = structlog.get_logger()


class ConsumerDied(Exception):
    """Consumption ended for a reason that waiting does not mend."""


class Consumer:
    def __init__(
        self,
        service: str,
        consumed: FactsByTopic,
        kernel: Kernel[Any],
        engine: AsyncEngine,
        *,
        access: KafkaAccess,
        group: str,
        instance: str | None,
        needs: Collection[Grant],
        job: Job,
        meter: Meter,
    ) -> None:
        self._service = service
        self._consumed = consumed
        self._kernel = kernel
        self._engine = engine
        self._access = access
        self._group = group
        self._instance = instance
        """Whatever was there under this name before has ended: no other process has it at the same time."""
        self._needs = needs
        self._job = job
        self._meter = meter
        self._stranger: str | None = None
        self._joined = False
        self._compared: dict[TopicPartition, int] = {}
        """By partition the leader epoch in which all that was read was last found to be in the log."""

    async def run(self) -> None:
        """Runs until cancelled. Kafka or the database away is waited out; raises `ConsumerDied` otherwise."""
        while True:
            try:
                await self._session()
            except (LogMismatch, AccessDenied) as told:
                self._say(str(told))
            except (PositionGap, Stalled) as gap:
                self._say(f"starting over from the positions: {gap}")
            except ConsumerDied:
                raise
            except _DATABASE_AWAY as error:
                self._say(f"the database cannot say how far was read: {type(error).__name__}")
            except Exception as error:
                self._say(f"Kafka at {self._access.bootstrap} cannot be read: {str(error) or repr(error)}")
            await asyncio.sleep(_PAUSE)

    def _say(self, trouble: str) -> None:
        trouble = self._stranger or trouble
        if trouble != self._job.state.cause:
            log.warning("consumer trouble", detail=trouble)
        self._job.held_up(trouble)

    def _got_on(self, waiting: int) -> None:
        self._job.got_on(waiting)
        if self._stranger:
            self._job.held_up(self._stranger)

    async def _session(self) -> None:
        """One assignment, from the positions on, until something ends it."""
        self._compared.clear()
        self._stranger, self._joined = None, False
        _, there = await self._look()
        self._compared = {place: partition.leader_epoch for place, partition in there.items()}
        await self._dismiss_predecessors()
        client_id = new_client_id(self._service, self._instance)
        app = ChunkedApp(self._group, client_id, self._access)
        handover = Handover(
            self._kernel, self._consumed, app, on_progress=lambda: self._got_on(handover.unfinished)
        )
        listen = partial(handover.listen, check=self._check_end)
        app.consume(self._consumed, listen, partial(self._next_offsets, handover))
        tasks = [
            asyncio.ensure_future(self._run_app(app)),
            asyncio.ensure_future(self._watch(client_id, handover)),
        ]
        try:
            await asyncio.wait({*tasks, handover.ended}, return_when=asyncio.FIRST_COMPLETED)
            for end in (handover.ended, *reversed(tasks)):
                if end.done():
                    end.result()
        finally:
            handover.close()
            for task in tasks:
                task.cancel()
            await _stop(app)
            for task in (await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_SECONDS))[0]:
                task.cancelled() or task.exception()  # whichever is raised here, the others are not news

    async def _dismiss_predecessors(self) -> None:
        """Who was killed is missed only when its session is over. Until then nobody has its partitions."""
        if self._instance is None:
            return
        async with asking(self._access) as cluster:
            group = await cluster.group(self._group)
            for member in group.predecessors(self._service, self._instance):
                await cluster.dismiss(self._group, member)

    async def _run_app(self, app: faust.App) -> None:
        """Raises what ended it."""
        starting = asyncio.ensure_future(app.start())
        try:
            if not (await asyncio.wait([starting], timeout=_START_TIMEOUT_SECONDS))[0]:
                raise Stalled(f"the group {self._group} gave no assignment in {_START_TIMEOUT_SECONDS:.0f} s")
            starting.result()
        finally:
            starting.cancel()
        self._joined = True
        self._got_on(0)
        await app.wait_until_stopped()
        raise self._verdict(app)

    def _verdict(self, app: faust.App) -> BaseException:
        reason = app.crash_reason
        if isinstance(reason, aiokafka.errors.OffsetOutOfRangeError):
            return PositionGap(f"Kafka does not have what is next: {reason}")
        if isinstance(reason, (LogMismatch, AccessDenied, PositionGap, *_DATABASE_AWAY, *_KAFKA_AWAY)):
            return reason
        if self._kernel.trouble:
            return ConnectionError(repr(reason))
        return ConsumerDied(f"Faust stopped: {reason!r}")

    async def _next_offsets(
        self, handover: Handover, places: set[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where to begin with what Kafka has just assigned. Raises `LogMismatch`."""
        known, _ = await self._look_again(handover, begun=places)
        begin = {place: known[place].expected if place in known else Expected(0, -1) for place in places}
        handover.begin(begin)
        return {place: at.next_offset for place, at in begin.items()}

    async def _check_end(self, place: TopicPartition, end: Expected, epoch: int) -> None:
        """Before what a leader of this epoch has appended to what another one had: with it the log may have
        lost what was read. Raises `PositionGap`; the next session looks.
        """
        (topic, number), last = place, end.next_offset - 1

        async def ask() -> FetchedRecord | None:
            async with asking(self._access) as cluster:
                metadata = await cluster.metadata([topic])
                if metadata.topic(topic).leader_epochs.get(number, -1) < epoch:
                    raise LeaderNotAvailableError(f"of {topic}[{number}] an older one is told")
                return (await cluster.records({place: last})).get(place)

        found = await retrying(ask)
        if found and found.leader_epoch != end.leader_epoch:
            raise PositionGap(f"{topic}[{number}] has another thing at {last} than was read")

    async def _watch(self, client_id: str, handover: Handover) -> None:
        """Raises what `_look` does, when the log is another one or a grant is taken away, and `Stalled`."""
        unread = Unread(client_id, handover)
        while True:
            await asyncio.sleep(_WATCH)
            try:
                known, there = await self._look_again(handover)
                async with asking(self._access) as cluster:
                    group = await cluster.group(self._group)
            except (*_DATABASE_AWAY, *_KAFKA_AWAY) as error:  # the health page has parts that say so
                log.debug("cannot look at the log", error=repr(error))
                continue
            self._stranger = "; ".join(group.strangers(self._service)) or None
            if self._stranger:
                self._say(self._stranger)
            if not self._joined:
                continue
            if waiting := max(unread.look(known, there, group), handover.unfinished):
                self._job.has(waiting)
            else:
                self._got_on(0)

    async def _look_again(
        self, handover: Handover, begun: Collection[TopicPartition] = ()
    ) -> tuple[Positions, Log]:
        """As `_look`. What is compared while nothing of it is on its way need not be so by every look."""
        before = {place: handover.read_up_to(place) for place in {*self._compared, *begun}}
        known, there = await self._look(begun)
        for place, end in before.items():
            if place in there and end is not None and handover.read_up_to(place) == end:
                self._compared[place] = there[place].leader_epoch
        return known, there

    async def _look(self, begun: Collection[TopicPartition] = ()) -> tuple[Positions, Log]:
        """Holds the positions against the log, and measures the lag.

        New partitions are begun at 0. The positions are read before the log is looked at: what is read and
        written meanwhile is never taken for a log that was cut. Compared are those that are `begun` at their
        positions, and those that have another leader than when nothing of them was on its way and they were
        compared. Raises `LogMismatch` where the log is another one, or lacks what has not been read, and
        `AccessDenied` where it may not be read.
        """
        topics = sorted(self._consumed)
        async with raw_connection(self._engine) as conn:
            known = {row.place: row for row in await positions.read(conn, topics)}
        async with asking(self._access) as cluster:
            await require(cluster, self._access, self._needs)
            there = await described(cluster, topics)
            self._measure_lag(known, there)
            for place, partition in there.items():
                compare(self._service, partition, known.get(place))
            await refuse_compacted(cluster, topics)
            epochs = {place: partition.leader_epoch for place, partition in there.items()}
            doubtful = [
                known[place]
                for place in known
                if place in begun or epochs.get(place) != self._compared.get(place)
            ]
            await compare_last_read(self._service, cluster, there, doubtful)
        if missing := [partition.begin for place, partition in there.items() if place not in known]:
            async with raw_connection(self._engine) as conn:
                await positions.begin(conn, missing)
                await conn.commit()
        return known, there

    def _measure_lag(self, known: Positions, there: Log) -> None:
        lag = dict.fromkeys(self._consumed, 0)
        for place, partition in there.items():
            read = known[place].next_offset if place in known else 0
            lag[partition.begin.topic] += max(0, partition.latest - read)
        for topic, records in lag.items():
            self._meter.lag.labels(topic).set(records)


async def _stop(app: faust.App) -> None:
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
            await app.stop()
    except Exception as error:
        log.warning("Faust did not stop tidily", error=repr(error))
