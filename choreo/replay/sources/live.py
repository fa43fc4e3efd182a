"""A running system as a stream: Kafka read by offsets, journals and tables read in one snapshot per service.

Nothing is written, no consumer group is joined, no offset committed. First the ends of the topics are noted,
then a snapshot of each database is taken, then the ends are noted again: what was published before the
snapshots has its decision in one of them, and what they hold as published lies before the second ends.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import orjson
import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from psycopg.types.json import set_json_loads
from sqlalchemy import Table

from choreo.chassis.database.tables import keys
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import log_reader
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, describe
from choreo.chassis.settings import TOPICS, Settings
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.positions import TopicPartition as Place
from choreo.message.codec import Record, Undecodable, UnknownType, decode
from choreo.replay.sources.records import Broken, Cut, Item, JournalEntry, Span, TopicRecord, Unpublished

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_APPENDED = 1
_CONNECT_WITHIN = 10
_AT_ONCE = 1000
_MANY = 5000
"""So many records of a partition wait in memory at most before its reading pauses; and a fetch more."""
_PATIENCE = 5.0
_ASK_AGAIN = 0.1
_SILENCE = 30.0
"""Seconds without a record that must be there."""

_ENTRIES = """/* journal.entries: in the order of handling */
SELECT position, id, key, step, kind, type, topic, partition, "offset", correlation_id, outcome, command,
    refusal, decided_at, received_at, code_version
FROM journal WHERE (%(keys)s::text[] IS NULL OR key = ANY(%(keys)s))
    AND (%(until)s::timestamptz IS NULL OR decided_at <= %(until)s)
ORDER BY position"""

_UNPUBLISHED = """/* outbox.unpublished: in the order of decision */
SELECT key, value, headers FROM outbox
WHERE (%(keys)s::text[] IS NULL OR key = ANY(%(keys)s))
    AND (%(until)s::timestamptz IS NULL OR decided_at <= %(until)s)
ORDER BY position"""

_TRIMMED = """/* journal.trimmed: keys that have made steps, and of which the journal has nothing */
SELECT key FROM keys WHERE sequence > 0 AND (%(keys)s::text[] IS NULL OR key = ANY(%(keys)s))
    AND NOT EXISTS (SELECT FROM journal WHERE journal.key = keys.key)"""

_KEYS_OF_FLOW = """/* journal.keys_of_flow */ SELECT DISTINCT key FROM journal WHERE correlation_id = %s"""
_KEYS_BETWEEN = """/* journal.keys_between: whoever asked or heard something then */
SELECT DISTINCT key FROM journal WHERE (%(since)s::timestamptz IS NULL OR decided_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR decided_at <= %(until)s)"""


class Live:
    """Use `open_live` or `join_live`."""

    def __init__(
        self, access: KafkaAccess, urls: Mapping[str, str], cut: Cut, snapshots: Mapping[str, str]
    ) -> None:
        self.cut = cut
        self._access = access
        self._urls = urls
        self._snapshots = snapshots
        self._conns: dict[str, Connection] = {}

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        cut = self.cut
        async with _Log(self._access, cut) as log:
            journals = [_Journal(name, self._conns[name], cut) for name in cut.services]
            for journal in journals:
                await journal.begin()
            batch: list[Item] = []
            # Which journal goes on is a matter of memory, not of order: none runs far ahead of the others.
            while waiting := [journal for journal in journals if journal.page]:
                journal = min(waiting, key=lambda journal: journal.page[0].now)
                entry = journal.page.popleft()
                if not journal.page:
                    await journal.turn()
                if entry.topic is not None and entry.partition is not None and entry.offset is not None:
                    batch += await log.through((entry.topic, entry.partition), entry.offset)
                batch.append(entry)
                if len(batch) >= _AT_ONCE:
                    batch += log.until(entry.now)
                    yield batch
                    batch = []
            yield batch
            async for records in log.rest():
                yield records
        for name in cut.services:
            yield await self._unpublished(name)

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        some = " WHERE sequence > 0" if table is keys else ""  # a key may be locked and nothing come of it
        query = f"/* rows.{table.name} */ SELECT {columns} FROM {table.name}{some}"
        async with self._conns[service].cursor(f"rows_{table.name}") as cursor:
            await cursor.execute(query.encode())
            while page := await cursor.fetchmany(_AT_ONCE):
                yield page

    async def trimmed(self, service: str) -> Collection[str]:
        return await trimmed(self._conns[service], self.cut)

    def digest(self, service: str, table: Table) -> str | None:
        return None

    def ticket(self) -> dict[str, Any]:
        cut = asdict(self.cut)
        spans = [[*place, span.first, span.settled, span.end] for place, span in self.cut.spans.items()]
        cut |= {"spans": spans, "keys": self.cut.keys and sorted(self.cut.keys)}
        return {
            "kafka": self._access.told(),
            "urls": dict(self._urls),
            "snapshots": dict(self._snapshots),
            "cut": cut,
        }

    async def _unpublished(self, service: str) -> list[Item]:
        rows = await (await self._conns[service].execute(_UNPUBLISHED, _wanted(self.cut))).fetchall()
        return [
            Unpublished(service, outbox.Unpublished(UUID(int=0), key, 0, value, headers, datetime.min).record)
            for key, value, headers in rows
        ]


@asynccontextmanager
async def open_live(
    access: KafkaAccess,
    urls: Mapping[str, str],
    settings: Settings,
    *,
    flow: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> AsyncIterator[Live]:
    """`urls` are those of the databases, by service.

    With a flow or a time, only the keys it touches, each from its beginning: what is decided about a key
    follows from all that came before. Raises psycopg.Error, KafkaError and `LogMismatch`.
    """
    topics = [settings.topic_prefix + topic for topic in TOPICS.values()]
    before = await described(access, topics)
    async with AsyncExitStack() as stack:
        conns, snapshots = {}, {}
        for service, url in urls.items():
            conns[service] = await _snapshot(stack, url)
            row = await (await conns[service].execute("SELECT pg_export_snapshot()")).fetchone()
            snapshots[service] = str(row[0]) if row else ""
        selected = await _keys(conns, flow, since, until) if flow or since or until else None
        after = await described(access, topics)
        spans = {
            place: Span(log.earliest, log.earliest if until else before[place].latest, log.latest)
            for place, log in after.items()
            if place in before
        }
        cut = Cut(
            spans,
            tuple(urls),
            settings.topic_prefix,
            settings.currency,
            settings.decide_within,
            selected,
            until,
        )
        live = Live(access, urls, cut, snapshots)
        live._conns = conns
        yield live


@asynccontextmanager
async def join_live(ticket: Mapping[str, Any]) -> AsyncIterator[Live]:
    """The stream of another process, by its ticket, as long as that has it open."""
    told = dict(ticket["cut"])
    told["spans"] = {(topic, partition): Span(*span) for topic, partition, *span in told["spans"]}
    told["services"] = tuple(told["services"])
    told["keys"] = None if told["keys"] is None else frozenset(told["keys"])
    told["until"] = told["until"] and datetime.fromisoformat(told["until"])
    async with AsyncExitStack() as stack:
        live = Live(KafkaAccess.from_told(ticket["kafka"]), ticket["urls"], Cut(**told), ticket["snapshots"])
        for service, url in ticket["urls"].items():
            live._conns[service] = await _snapshot(stack, url, ticket["snapshots"][service])
        yield live


async def read_spans(access: KafkaAccess, cut: Cut) -> AsyncIterator[Sequence[TopicRecord]]:
    """The cut's spans alone, one after the other, in the order of offsets. Raises `Broken`."""
    async with _Log(access, cut) as log:
        async for records in log.rest():
            yield records


async def described(access: KafkaAccess, topics: Sequence[str]) -> Mapping[Place, PartitionLog]:
    """Again where the cluster refuses for a moment only, as while the leader of a partition is new."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        try:
            return await describe(access, topics)
        except (KafkaError, LogMismatch):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_ASK_AGAIN)


async def _snapshot(stack: AsyncExitStack, url: str, of: str | None = None) -> Connection:
    """A session that sees one moment of a database until it is closed, and cannot write."""
    conn = await psycopg.AsyncConnection.connect(url, connect_timeout=_CONNECT_WITHIN)
    await stack.enter_async_context(conn)
    await conn.set_read_only(True)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    set_json_loads(orjson.loads, conn)
    if of is not None:
        await conn.execute(f"SET TRANSACTION SNAPSHOT '{of}'".encode())
    return conn


async def _keys(
    conns: Mapping[str, Connection], flow: UUID | None, since: datetime | None, until: datetime | None
) -> frozenset[str]:
    found: set[str] = set()
    for conn in conns.values():
        if flow is not None:
            rows = await (await conn.execute(_KEYS_OF_FLOW, [flow])).fetchall()
        else:
            rows = await (await conn.execute(_KEYS_BETWEEN, {"since": since, "until": until})).fetchall()
        found |= {key for (key,) in rows}
    return frozenset(found)


async def trimmed(conn: Connection, cut: Cut) -> Collection[str]:
    return {key for (key,) in await (await conn.execute(_TRIMMED, _wanted(cut))).fetchall()}


def _wanted(cut: Cut) -> dict[str, Any]:
    return {"keys": None if cut.keys is None else list(cut.keys), "until": cut.until}


class _Journal:
    """A service's journal, a page after the other."""

    def __init__(self, service: str, conn: Connection, cut: Cut) -> None:
        self._service, self._cut = service, cut
        self._cursor = conn.cursor("journal")
        self.page: deque[JournalEntry] = deque()

    async def begin(self) -> None:
        await self._cursor.execute(_ENTRIES, _wanted(self._cut))
        await self.turn()

    async def turn(self) -> None:
        rows = await self._cursor.fetchmany(_AT_ONCE)
        self.page.extend(JournalEntry(self._service, *row) for row in rows)
        if not rows:
            await self._cursor.close()


@dataclass
class _Partition:
    span: Span
    next: int = 0
    """The offset after the last that was fetched."""
    last: int = 0
    """The offset after the last record."""
    fetched: deque[TopicRecord] = field(default_factory=deque)
    paused: bool = False

    @property
    def exhausted(self) -> bool:
        return self.next >= self.span.end


class _Log:
    """The topics, read by offsets. Use as a context."""

    def __init__(self, access: KafkaAccess, cut: Cut) -> None:
        self._consumer: _Consumer = log_reader(access)
        self._cut = cut
        self._partitions = {place: _Partition(span, span.first) for place, span in cut.spans.items()}
        self._needed: set[tuple[str, int, int]] = set()

    async def __aenter__(self) -> "_Log":
        await self._consumer.start()
        reading = {place: part for place, part in self._partitions.items() if not part.exhausted}
        self._consumer.assign([TopicPartition(*place) for place in reading])
        for place, part in reading.items():
            self._consumer.seek(TopicPartition(*place), part.next)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def through(self, place: Place, offset: int) -> list[TopicRecord]:
        """The records up to this one, as far as they were not given before."""
        part = self._partitions.get(place)
        if part is None:
            return []
        while part.next <= min(offset, part.span.end - 1):
            await self._fetch(place)
        found = []
        while part.fetched and part.fetched[0].offset <= offset:
            record = part.fetched.popleft()
            if record.offset == offset or self._is_wanted(record):
                found.append(record)
        return found

    def until(self, now: datetime) -> list[TopicRecord]:
        """Those already fetched that are not younger, so that they do not pile up."""
        milliseconds = now.timestamp() * 1000
        found = []
        for part in self._partitions.values():
            while part.fetched and part.fetched[0].timestamp <= milliseconds:
                record = part.fetched.popleft()
                if self._is_wanted(record):
                    found.append(record)
        return found

    async def rest(self) -> AsyncIterator[list[TopicRecord]]:
        for place, part in self._partitions.items():
            while part.fetched or not part.exhausted:
                if not part.fetched:
                    await self._fetch(place)
                yield [record for record in part.fetched if self._is_wanted(record)]
                part.fetched.clear()

    def _is_wanted(self, record: TopicRecord) -> bool:
        if self._cut.keys is None:
            return True
        if (record.record.key or b"").decode(errors="replace") not in self._cut.keys:
            return False
        return self._cut.until is None or _decided(record, self._cut.until) <= self._cut.until

    async def _fetch(self, wanted: Place) -> None:
        """Some more, and of this partition at least one record or its end. Raises `Broken`."""
        before = self._partitions[wanted].next
        for place, part in self._partitions.items():
            if part.paused and (place == wanted or len(part.fetched) < _MANY // 2):
                self._consumer.resume(TopicPartition(*place))
                part.paused = False
        try:
            async with asyncio.timeout(_SILENCE):
                while self._partitions[wanted].next == before:
                    for tp, records in (await self._consumer.getmany(timeout_ms=200)).items():
                        await self._take((tp.topic, tp.partition), records)
        except TimeoutError:
            raise Broken(f"{wanted[0]}[{wanted[1]}] gives nothing from offset {before} on.") from None

    async def _take(self, place: Place, records: Sequence[Any]) -> None:
        part = self._partitions[place]
        begin = part.next
        for record in records:
            if record.offset < part.span.end:
                told = Record(record.key, record.value, list(record.headers))
                appended = record.timestamp_type == _APPENDED
                part.fetched.append(
                    TopicRecord(*place, record.offset, record.timestamp, appended, told, begin)
                )
                begin = part.last = record.offset + 1
        part.next = await self._consumer.position(TopicPartition(*place))
        if part.exhausted:  # behind the last record there may be marks of transactions
            self._cut.spans[place] = replace(part.span, end=max(part.last, part.span.first))
        if part.exhausted or len(part.fetched) > _MANY:
            self._consumer.pause(TopicPartition(*place))
            part.paused = not part.exhausted


def _decided(record: TopicRecord, otherwise: datetime) -> datetime:
    """The time its service told, to the microsecond."""
    try:
        return decode(record.record).time
    except (Undecodable, UnknownType):
        return otherwise


class _Consumer(Protocol):
    """What is used of aiokafka's consumer."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, partitions: Collection[TopicPartition]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    def pause(self, *partitions: TopicPartition) -> None: ...
    def resume(self, *partitions: TopicPartition) -> None: ...
    async def position(self, partition: TopicPartition) -> int: ...
    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]: ...
