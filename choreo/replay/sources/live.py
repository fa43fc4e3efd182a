"""A running system as a stream: Kafka read by offsets, journals and tables read in one snapshot per service.

Nothing is written, no consumer group is joined, no offset committed. First the ends of the topics are noted,
then a snapshot of each database is taken, then the ends are noted again: what was published before the
snapshots has its decision in one of them, and what they hold as published lies before the second ends.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg.types.json import set_json_loads
from sqlalchemy import Table

from choreo.chassis.database.connection import session
from choreo.chassis.database.tables import keys
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import Fetched, LogReader, NothingCame, describe_retrying
from choreo.chassis.registry import all_topics, own_settings, services
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.replay.sources.records import (
    Broken,
    Cut,
    EditedRow,
    Item,
    JournalEntry,
    OutboxRecord,
    Span,
    taken_whole,
)

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
About = Callable[[Mapping[str, Connection]], Awaitable[Collection[str]]]
"""Says by the databases' snapshots which keys something is asked about."""

_CONNECT_WITHIN = 10
_AT_ONCE = 1000
_MANY = 5000
"""So many records of a partition wait in memory at most before its reading pauses; and a fetch more."""
_SILENCE_TIMEOUT_SECONDS = 30.0

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
            yield await unpublished_of(self._conns[name], cut, name)

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        # A key may be locked and nothing come of it.
        conditions = ["sequence > 0"] if table is keys else []
        chosen = self.cut.chosen_of(service)
        if chosen is not None:
            conditions.append(f"{self._key_column(service, table)}::text = ANY(%(chosen)s)")
        some = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"/* rows.{table.name} */ SELECT {columns} FROM {table.name}{some}"
        async with self._conns[service].cursor(f"rows_{table.name}") as cursor:
            await cursor.execute(query.encode(), {"chosen": list(chosen or ())})
            while page := await cursor.fetchmany(_AT_ONCE):
                yield page

    def _key_column(self, service: str, table: Table) -> str:
        mappings = services(self.cut.settings)[service].store.mappings
        return next((mapping.key for mapping in mappings if mapping.table is table), "key")

    async def trimmed(self, service: str) -> Collection[str]:
        return await trimmed(self._conns[service], self.cut, service)

    def digest(self, service: str, table: Table) -> str | None:
        return None

    def edited(self, service: str, table: Table) -> Sequence[EditedRow]:
        return ()

    def ticket(self) -> dict[str, Any]:
        cut = asdict(self.cut)
        spans = [[*place, span.first, span.settled, span.end] for place, span in self.cut.spans.items()]
        cut |= {"spans": spans}
        cut |= {name: cut[name] and sorted(cut[name]) for name in ("keys", "chosen")}
        return {
            "kafka": self._access.told(),
            "urls": dict(self._urls),
            "snapshots": dict(self._snapshots),
            "cut": cut,
        }


@asynccontextmanager
async def open_live(
    access: KafkaAccess,
    urls: Mapping[str, str],
    settings: Settings,
    *,
    flow: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    about: About | None = None,
    partition_of: Callable[[str], int] | None = None,
) -> AsyncIterator[Live]:
    """Opens the running system. `urls` are those of the databases, by service.

    With a flow or a time, it has only the keys that this touches, each from its beginning: what is decided
    about a key follows from all that came before. Where something is asked `about` some keys alone, nothing
    else is read: in the partitions of those keys. Raises psycopg.Error and what is in `LOG_UNREADABLE`.
    """
    topics = all_topics(settings.topic_prefix)
    before = await describe_retrying(access, topics)
    async with AsyncExitStack() as stack:
        conns, snapshots = {}, {}
        for service, url in urls.items():
            conns[service] = await _snapshot(stack, url)
            row = await (await conns[service].execute("SELECT pg_export_snapshot()")).fetchone()
            snapshots[service] = str(row[0]) if row else ""
        selected = await _keys(conns, flow, since, until) if flow or since or until else None
        after = await describe_retrying(access, topics)
        spans = {
            place: Span(log.earliest, log.earliest if until else before[place].latest, log.latest)
            for place, log in after.items()
            if place in before
        }
        cut = Cut(
            spans,
            tuple(urls),
            settings.topic_prefix,
            own_settings(settings),
            selected,
            until,
        )
        if about is not None and partition_of is not None:
            chosen = frozenset(await about(conns))
            spans = _spans_of(cut, {partition_of(key) for key in chosen})
            cut = replace(cut, chosen=chosen, sparse=True, spans=spans)
        live = Live(access, urls, cut, snapshots)
        live._conns = conns
        yield live


@asynccontextmanager
async def join_live(ticket: Mapping[str, Any]) -> AsyncIterator[Live]:
    """Opens the stream of another process, by its ticket, as long as that has it open."""
    told = dict(ticket["cut"])
    told["spans"] = {(topic, partition): Span(*span) for topic, partition, *span in told["spans"]}
    told["services"] = tuple(told["services"])
    told |= {name: None if told[name] is None else frozenset(told[name]) for name in ("keys", "chosen")}
    told["until"] = told["until"] and datetime.fromisoformat(told["until"])
    async with AsyncExitStack() as stack:
        live = Live(KafkaAccess.from_told(ticket["kafka"]), ticket["urls"], Cut(**told), ticket["snapshots"])
        for service, url in ticket["urls"].items():
            live._conns[service] = await _snapshot(stack, url, ticket["snapshots"][service])
        yield live


async def unpublished_of(conn: Connection, cut: Cut, service: str) -> list[OutboxRecord]:
    rows = await (await conn.execute(_UNPUBLISHED, _wanted(cut, service))).fetchall()
    return [
        OutboxRecord(service, outbox.OutboxRow(UUID(int=0), key, 0, value, headers, datetime.min).record)
        for key, value, headers in rows
    ]


async def read_spans(access: KafkaAccess, cut: Cut) -> AsyncIterator[Sequence[TopicRecord]]:
    """Reads the cut's spans alone, one after the other, in the order of offsets. Raises `Broken`."""
    async with _Log(access, cut) as log:
        async for records in log.rest():
            yield records


async def _snapshot(stack: AsyncExitStack, url: str, of: str | None = None) -> Connection:
    """Opens a session that sees one moment of a database, and cannot write."""
    conn = await psycopg.AsyncConnection.connect(**session(url, connect_timeout=_CONNECT_WITHIN))
    await stack.enter_async_context(conn)
    await conn.set_read_only(True)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    set_json_loads(orjson.loads, conn)
    if of is not None:
        await conn.execute(f"SET TRANSACTION SNAPSHOT '{of}'".encode())
    return conn


def _spans_of(cut: Cut, partitions: Collection[int]) -> dict[TopicPartition, Span]:
    whole = {cut.topic_of(service) for service in taken_whole()}
    return {place: span for place, span in cut.spans.items() if place[1] in partitions or place[0] in whole}


async def keys_since(conns: Mapping[str, Connection], since: datetime) -> frozenset[str]:
    """Returns the keys of which something was decided since then."""
    return await _keys(conns, None, since, None)


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


async def trimmed(conn: Connection, cut: Cut, service: str) -> Collection[str]:
    return {key for (key,) in await (await conn.execute(_TRIMMED, _wanted(cut, service))).fetchall()}


def _wanted(cut: Cut, service: str) -> dict[str, Any]:
    keys = cut.chosen_of(service) if cut.keys is None else cut.keys
    return {"keys": None if keys is None else list(keys), "until": cut.until}


class _Journal:
    """A service's journal, a page after the other."""

    def __init__(self, service: str, conn: Connection, cut: Cut) -> None:
        self._service, self._cut = service, cut
        self._cursor = conn.cursor("journal")
        self.page: deque[JournalEntry] = deque()

    async def begin(self) -> None:
        await self._cursor.execute(_ENTRIES, _wanted(self._cut, self._service))
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
        self._reader = LogReader(access, silence_timeout_seconds=_SILENCE_TIMEOUT_SECONDS)
        self._cut = cut
        self._partitions = {place: _Partition(span, span.first) for place, span in cut.spans.items()}

    async def __aenter__(self) -> "_Log":
        await self._reader.__aenter__()
        reading = {place: part.next for place, part in self._partitions.items() if not part.exhausted}
        self._reader.assign(reading)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._reader.__aexit__(*error)

    async def through(self, place: TopicPartition, offset: int) -> list[TopicRecord]:
        """Returns the records up to this one, as far as they were not returned before."""
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
        """Returns those already fetched that are not younger, so that they do not pile up."""
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
        chosen = self._cut.chosen_of(self._cut.service_of[record.topic])
        if chosen is not None and (record.record.key or b"").decode(errors="replace") not in chosen:
            return False
        if self._cut.keys is None:
            return True
        if (record.record.key or b"").decode(errors="replace") not in self._cut.keys:
            return False
        return self._cut.until is None or _decided(record, self._cut.until) <= self._cut.until

    async def _fetch(self, wanted: TopicPartition) -> None:
        """Fetches some more, and of this partition at least one record or its end. Raises `Broken`."""
        for place, part in self._partitions.items():
            if part.paused and (place == wanted or len(part.fetched) < _MANY // 2):
                self._reader.resume(place)
                part.paused = False
        try:
            async for fetched in self._reader.read_on(wanted):
                self._take(fetched)
        except NothingCame as silence:
            raise Broken(str(silence)) from None

    def _take(self, fetched: Fetched) -> None:
        part = self._partitions[fetched.place]
        records = [record for record in fetched.records if record.offset < part.span.end]
        part.fetched.extend(records)
        part.next = fetched.next_offset
        part.last = records[-1].offset + 1 if records else part.last
        if part.exhausted:  # behind the last record there may be marks of transactions
            self._cut.spans[fetched.place] = replace(part.span, end=max(part.last, part.span.first))
        if part.exhausted or len(part.fetched) > _MANY:
            self._reader.pause(fetched.place)
            part.paused = not part.exhausted


def _decided(record: TopicRecord, otherwise: datetime) -> datetime:
    """Returns the time its service gave it, to the microsecond."""
    try:
        return decode(record.record).time
    except (Undecodable, UnknownType):
        return otherwise
