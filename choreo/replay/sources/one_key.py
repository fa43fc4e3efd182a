"""One key of one service of a running system: its journal by index, what it heard by offset.

However long the topics are, only the records it heard are fetched. Nothing is written, no consumer group is
joined, no offset committed.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition
from sqlalchemy import Table, Uuid

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import log_reader
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.codec import Record
from choreo.replay.sources.live import _ENTRIES, Connection, _snapshot, trimmed
from choreo.replay.sources.records import Broken, Cut, Item, JournalEntry, TopicRecord

Offset = tuple[str, int, int]
"""Topic, partition, offset."""

_NEAR = 200
"""So many records are read over rather than sought past."""
_FETCHED = 64 * 1024
"""Bytes at a time: mostly a single record is wanted."""
_PATIENCE = 10_000
"""Milliseconds without an answer."""


class NoSuchRow(LookupError):
    """Nothing of this name is in the table."""


class OneKey:
    """Use `open_key`."""

    def __init__(
        self, access: KafkaAccess, conn: Connection, service: Service[Any], settings: Settings, key: str
    ) -> None:
        self.key = key
        self.cut = Cut(
            {},
            (service.name,),
            settings.topic_prefix,
            settings.currency,
            settings.decide_within,
            keys=frozenset({key}),
        )
        self._access = access
        self._conn = conn
        self._key_columns = {mapping.table.name: mapping.key for mapping in service.store.mappings}

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        rows = await (await self._conn.execute(_ENTRIES, {"keys": [self.key], "until": None})).fetchall()
        entries = [JournalEntry(self.cut.services[0], *row) for row in rows]
        heard = [
            (entry.topic, entry.partition, entry.offset)
            for entry in entries
            if entry.topic is not None and entry.partition is not None and entry.offset is not None
        ]
        yield [*await records_at(self._access, heard), *entries]

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        column = table.columns[self._key_columns[table.name]]
        key = self.key if not isinstance(column.type, Uuid) else _uuid(self.key)
        columns = ", ".join(f'"{told.name}"' for told in table.columns)
        query = (
            f"/* rows.{table.name}: of one key */ SELECT {columns} FROM {table.name} WHERE {column.name} = %s"
        )
        yield await (await self._conn.execute(query.encode(), [key])).fetchall()

    async def trimmed(self, service: str) -> Collection[str]:
        return await trimmed(self._conn, self.cut)

    def digest(self, service: str, table: Table) -> None:
        return None

    def ticket(self) -> dict[str, Any]:
        raise NotImplementedError("one key is looked at by one process")


@asynccontextmanager
async def open_key(
    access: KafkaAccess,
    url: str,
    service: Service[Any],
    settings: Settings,
    *,
    key: str | None = None,
    row: tuple[TableMapping, Any] | None = None,
) -> AsyncIterator[OneKey]:
    """`url` is that of the service's database. Instead of the key, one of its rows may be named.

    Raises `NoSuchRow`, psycopg.Error; reading raises KafkaError and `Broken`.
    """
    async with AsyncExitStack() as stack:
        conn = await _snapshot(stack, url)
        if row is not None:
            key = await _key_of(conn, *row)
        assert key is not None
        yield OneKey(access, conn, service, settings, key)


async def _key_of(conn: Connection, mapping: TableMapping, name: Any) -> str:
    table = mapping.table
    where = " AND ".join(f"{column.name} = %s" for column in table.primary_key.columns)
    query = f"/* {table.name}.key_of_row */ SELECT {mapping.key} FROM {table.name} WHERE {where}"
    found = await (
        await conn.execute(query.encode(), name if isinstance(name, tuple) else (name,))
    ).fetchone()
    if found is None:
        raise NoSuchRow
    return str(found[0])


async def records_at(access: KafkaAccess, wanted: Iterable[Offset]) -> list[TopicRecord]:
    """Those that are there. Raises KafkaError, and `Broken` where Kafka says nothing."""
    places: dict[TopicPartition, list[int]] = {}
    for topic, partition, offset in sorted(set(wanted)):
        places.setdefault(TopicPartition(topic, partition), []).append(offset)
    if not places:
        return []
    consumer = log_reader(access, max_partition_fetch_bytes=_FETCHED)
    await consumer.start()
    try:
        found: list[TopicRecord] = []
        for place, offsets in places.items():
            first = (await consumer.beginning_offsets([place]))[place]
            end = (await consumer.end_offsets([place]))[place]
            if there := [offset for offset in offsets if first <= offset < end]:
                found += await _read(consumer, place, there)
        return found
    finally:
        await consumer.stop()


async def _read(consumer: Any, place: TopicPartition, offsets: list[int]) -> list[TopicRecord]:
    found, position, missing = [], offsets[0], set(offsets)
    consumer.assign([place])
    consumer.seek(place, position)  # at once: nothing else says where to begin
    for offset in offsets:
        if offset > position + _NEAR:
            consumer.seek(place, offset)
            position = offset
        while position <= offset:
            some = await consumer.getmany(place, timeout_ms=_PATIENCE, max_records=_NEAR + 1)
            records = some.get(place, [])
            if not records and await consumer.position(place) <= position:
                raise Broken(f"{place.topic}[{place.partition}] gives nothing from offset {position} on.")
            found += [_told(record) for record in records if record.offset in missing]
            position = await consumer.position(place)
    return found


def _told(record: Any) -> TopicRecord:
    return TopicRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.timestamp_type == 1,
        Record(record.key, record.value, list(record.headers)),
    )


def _uuid(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
