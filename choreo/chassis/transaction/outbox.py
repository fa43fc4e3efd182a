"""Facts that are decided and not yet on Kafka. They are added in the transaction that decided them.

A row's position is taken while its key is locked, so per key the order of positions is the order of
decisions, and what a reader sees of a key is always its beginning. Between keys a lower position may
become visible later: rows are therefore removed by their exact positions, never up to one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection, insert
from choreo.chassis.database.tables import outbox
from choreo.message.codec import Record, encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact

_LOWEST = """/* outbox.lowest: the oldest unpublished facts of these partitions */
SELECT position, event_id, key, partition, value, headers, decided_at FROM outbox
WHERE partition = ANY(%b::int[]) ORDER BY position LIMIT %s"""

_REMOVE = """/* outbox.remove: these are acknowledged by Kafka */
DELETE FROM outbox WHERE position = ANY(%b::bigint[])"""

_BACKLOG = """/* outbox.backlog: how many facts are unpublished, and since when */
SELECT count(*), min(decided_at) FROM outbox"""

_CONTAINS = """/* outbox.contains: is this fact still unpublished */
SELECT EXISTS (SELECT FROM outbox WHERE event_id = %s)"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    event_id: UUID
    key: str
    partition: int
    value: bytes
    headers: bytes
    decided_at: datetime
    position: int = 0

    @property
    def record(self) -> Record:
        """Byte for byte what was decided, however often it is published."""
        headers = [(name, value.encode()) for name, value in orjson.loads(self.headers)]
        return Record(self.key.encode(), self.value, headers)


def row_of(event: Event[Fact], partition: int) -> OutboxRow:
    record = encode(event)
    headers = orjson.dumps([(name, (value or b"").decode()) for name, value in record.headers])
    return OutboxRow(event.id, event.key, partition, record.value or b"", headers, event.time)


async def add(conn: Connection, rows: Sequence[OutboxRow]) -> None:
    """Runs inside the kernel's transaction, after the keys are locked."""
    await insert(conn, outbox, rows)


async def lowest(conn: Connection, partitions: Collection[int], limit: int) -> list[OutboxRow]:
    async with conn.cursor(row_factory=class_row(OutboxRow)) as cursor:
        await cursor.execute(_LOWEST, [list(partitions), limit])
        return await cursor.fetchall()


async def remove(conn: Connection, positions: Sequence[int]) -> None:
    await conn.execute(_REMOVE, [positions])


async def backlog(conn: Connection) -> tuple[int, datetime | None]:
    """How many facts are unpublished, and when the oldest of them was decided."""
    row = await (await conn.execute(_BACKLOG)).fetchone()
    assert row is not None
    return row[0], row[1]


async def contains(conn: Connection, event_id: UUID) -> bool:
    row = await (await conn.execute(_CONTAINS, [event_id])).fetchone()
    return bool(row and row[0])
