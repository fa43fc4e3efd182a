"""One key of one service of a running system: its journal by index, what it heard by offset.

What it decided is looked for in the one partition of its key, from the time on at which it was decided. So
however long the topics are, only what lies there is fetched. Nothing is written, no consumer group is joined,
no offset committed.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Table, Uuid

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import LogReader, NothingCame
from choreo.chassis.registry import own_settings
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.positions import TopicPartition
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.catalog import topic_of
from choreo.message.codec import TopicRecord
from choreo.replay.sources.live import _ENTRIES, Connection, _snapshot, trimmed, unpublished_of
from choreo.replay.sources.records import Broken, Cut, EditedRow, Item, JournalEntry, sequence_of

Offset = tuple[str, int, int]
"""Topic, partition, offset."""

_NEAR = 200
"""So many records are read over rather than sought past."""
_FETCHED = 64 * 1024
"""Bytes at a time: mostly a single record is wanted."""
_CLOCKS = timedelta(seconds=1)
"""Kafka's clock and the services' may differ by so much."""
_FAR = 20_000
"""So many records are looked through at most for one that was decided."""

_LAST_STEP = """/* keys.last_step */ SELECT sequence FROM keys WHERE key = %s"""


class NoSuchRow(LookupError):
    """Nothing of this name is in the table."""


class OneKey:
    """Use `open_key`."""

    def __init__(
        self,
        access: KafkaAccess,
        conn: Connection,
        service: Service[Any],
        settings: Settings,
        key: str,
        partition: int,
    ) -> None:
        self.key = key
        self._own = settings.topic_prefix + topic_of(service.name), partition
        self._items: list[Item] = []
        self.cut = Cut(
            {},
            (service.name,),
            settings.topic_prefix,
            own_settings(settings),
            keys=frozenset({key}),
        )
        self._access = access
        self._conn = conn
        self._key_columns = {mapping.table.name: mapping.key for mapping in service.store.mappings}

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        if not self._items:
            self._items = await self._read()
        yield self._items

    async def _read(self) -> list[Item]:
        rows = await (await self._conn.execute(_ENTRIES, {"keys": [self.key], "until": None})).fetchall()
        entries = [JournalEntry(self.cut.services[0], *row) for row in rows]
        heard = [
            (entry.topic, entry.partition, entry.offset)
            for entry in entries
            if entry.topic is not None and entry.partition is not None and entry.offset is not None
        ]
        unpublished = await unpublished_of(self._conn, self.cut, self.cut.services[0])
        own = await self._decided(entries, {sequence_of(item.record) for item in unpublished})
        return [*await records_at(self._access, heard), *own, *entries, *unpublished]

    async def _decided(
        self, entries: Sequence[JournalEntry], unpublished: Collection[int | None]
    ) -> list[TopicRecord]:
        """Finds the records of what was decided: of all steps of the key that are no applied entry's own."""
        row = await (await self._conn.execute(_LAST_STEP, [self.key])).fetchone()
        applied = [entry for entry in entries if entry.outcome == "applied"]
        ends = [*(entry.step_before for entry in applied[1:]), row[0] if row else 0]
        wanted = {
            step: entry.now
            for entry, end in zip(applied, ends, strict=bool(applied))
            for step in range(entry.step + 1, end + 1)
            if step not in unpublished
        }
        return await _decided(self._access, self._own, self.key.encode(), wanted) if wanted else []

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        column = table.columns[self._key_columns[table.name]]
        key = self.key if not isinstance(column.type, Uuid) else _uuid(self.key)
        columns = ", ".join(f'"{told.name}"' for told in table.columns)
        query = (
            f"/* rows.{table.name}: of one key */ SELECT {columns} FROM {table.name} WHERE {column.name} = %s"
        )
        yield await (await self._conn.execute(query.encode(), [key])).fetchall()

    async def trimmed(self, service: str) -> Collection[str]:
        return await trimmed(self._conn, self.cut, service)

    def digest(self, service: str, table: Table) -> None:
        return None

    def edited(self, service: str, table: Table) -> Sequence[EditedRow]:
        return ()

    def ticket(self) -> dict[str, Any]:
        raise NotImplementedError("one key is looked at by one process")


@asynccontextmanager
async def open_key(
    access: KafkaAccess,
    url: str,
    service: Service[Any],
    settings: Settings,
    *,
    partition_of: Callable[[str], int],
    key: str | None = None,
    row: tuple[TableMapping, Any] | None = None,
) -> AsyncIterator[OneKey]:
    """Opens one key. `url` is that of the service's database. Instead of the key, a row may be named.

    `partition_of` tells in which partition the facts of a key lie.

    Raises `NoSuchRow`, psycopg.Error; reading raises `Broken` and what is in `LOG_UNREADABLE`.
    """
    async with AsyncExitStack() as stack:
        conn = await _snapshot(stack, url)
        if row is not None:
            key = await _key_of(conn, *row)
        assert key is not None
        yield OneKey(access, conn, service, settings, key, partition_of(key))


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
    """Returns those that are there. Raises what is in `LOG_UNREADABLE`, and `Broken` if Kafka is silent."""
    offsets_of: dict[TopicPartition, list[int]] = {}
    for topic, partition, offset in sorted(set(wanted)):
        offsets_of.setdefault((topic, partition), []).append(offset)
    found: list[TopicRecord] = []
    if not offsets_of:
        return found
    async with LogReader(access, fetch_bytes=_FETCHED) as reader:
        for place, offsets in offsets_of.items():
            earliest, latest = await reader.earliest(place), await reader.latest(place)
            if there := [offset for offset in offsets if earliest <= offset < latest]:
                found += await _read(reader, place, there)
    return found


async def _decided(
    access: KafkaAccess, place: TopicPartition, key: bytes, wanted: Mapping[int, datetime]
) -> list[TopicRecord]:
    """Returns the key's records with these numbers, which are told with the times of decision."""
    found: dict[int, TopicRecord] = {}
    async with LogReader(access, fetch_bytes=_FETCHED) as reader:
        end, next_offset = await reader.latest(place), -_NEAR - 1
        for number, time in wanted.items():
            begin = await reader.first_since(place, time - _CLOCKS) if number not in found else None
            if begin is None:
                continue
            if begin > next_offset + _NEAR:
                reader.assign({place: begin})
                next_offset = begin
            while number not in found and next_offset < min(end, begin + _FAR):
                try:
                    async for fetched in reader.read_on(place):
                        next_offset = fetched.next_offset
                        for record in fetched.records:
                            sequence = sequence_of(record.record)
                            if record.record.key == key and sequence is not None:
                                found.setdefault(sequence, record)
                except NothingCame as silence:
                    raise Broken(str(silence)) from None
    return list(found.values())


async def _read(reader: LogReader, place: TopicPartition, offsets: list[int]) -> list[TopicRecord]:
    found, missing, next_offset = [], set(offsets), -_NEAR
    for offset in offsets:
        if offset >= next_offset + _NEAR:
            reader.assign({place: offset})
            next_offset = offset
        while next_offset <= offset:
            try:
                async for fetched in reader.read_on(place):
                    found += [record for record in fetched.records if record.offset in missing]
                    next_offset = fetched.next_offset
            except NothingCame as silence:
                raise Broken(str(silence)) from None
    return found


def _uuid(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
