"""Facts that are decided and not yet on Kafka. They are added in the transaction that decided them.

A row's position is taken while its key is locked, so per key the order of positions is the order of
decisions, and what a reader sees of a key is always its beginning. Between keys a lower position may
become visible later: rows are therefore removed by their exact positions, never up to one.

A partition of the outbox is published by the process that holds its lease: a row that is renewed by the
database's clock. No session has to stay open for it, and nobody holds it who may only read.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import RoundTrip, Statement
from choreo.chassis.database.rows import insert
from choreo.chassis.database.tables import outbox
from choreo.message.codec import Record, headers_of, value_of
from choreo.message.envelope import Event
from choreo.message.fact import Fact

_LOWEST = Statement("""/* outbox.lowest: the oldest facts of these partitions, found by position: + 0 */
SELECT event_id, key, partition, value, headers, decided_at, position FROM outbox
WHERE partition + 0 = ANY($1::integer[]) ORDER BY position LIMIT ($2::integer[])[1]""")

_REMOVE = Statement("""/* outbox.remove: these are acknowledged by Kafka */
DELETE FROM outbox WHERE position = ANY($1::bigint[])""")

_BACKLOG = """/* outbox.backlog: how many facts are unpublished, and since when */
SELECT count(*), min(decided_at) FROM outbox"""

_SINCE = """/* outbox.since: the age of the oldest unpublished fact of each partition */
WITH RECURSIVE oldest AS (
    (SELECT partition, decided_at FROM outbox ORDER BY partition, position LIMIT 1)
    UNION ALL
    SELECT next.partition, next.decided_at FROM oldest, LATERAL (
        SELECT partition, decided_at FROM outbox WHERE outbox.partition > oldest.partition
        ORDER BY partition, position LIMIT 1
    ) AS next
)
SELECT partition, decided_at FROM oldest"""

_STRAYS = """/* outbox.strays: partitions that nobody publishes */
SELECT DISTINCT partition FROM outbox WHERE partition >= %s ORDER BY partition"""

_CONTAINS = """/* outbox.contains: is this fact still unpublished */
SELECT EXISTS (SELECT FROM outbox WHERE event_id = %s)"""

_DECLARE_LEASES = """/* relay_leases.declare: a row for each partition, which nobody owns */
INSERT INTO relay_leases (partition, leased_until)
SELECT partition, clock_timestamp() FROM unnest(%b::int[]) AS partition ON CONFLICT DO NOTHING"""

_LEASE = """/* relay_leases.lease: those that are free or ours; a locked row is left out */
WITH free AS (
    SELECT partition FROM relay_leases
    WHERE partition = ANY(%(partitions)b::int[])
    AND (owner = %(owner)s OR leased_until < clock_timestamp())
    FOR UPDATE SKIP LOCKED
)
UPDATE relay_leases SET owner = %(owner)s, leased_until = clock_timestamp() + %(time)s
FROM free WHERE relay_leases.partition = free.partition
RETURNING relay_leases.partition"""

_UNOWNED = """/* relay_leases.unowned: those that nobody has taken for so long */
SELECT partition FROM relay_leases
WHERE partition = ANY(%b::int[]) AND leased_until < clock_timestamp() - %s::interval ORDER BY partition"""

_RELEASE = """/* relay_leases.release: this process goes */
UPDATE relay_leases SET leased_until = clock_timestamp()
WHERE owner = %s AND leased_until > clock_timestamp()"""


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
    headers = orjson.dumps(list(headers_of(event).items()))
    return OutboxRow(event.id, event.key, partition, value_of(event.data), headers, event.time)


def add(trip: RoundTrip, rows: Sequence[OutboxRow]) -> None:
    """Inside the kernel's transaction, after the keys are locked."""
    insert(trip, outbox, rows)


async def lowest(conn: Connection, partitions: Collection[int], limit: int) -> list[OutboxRow]:
    async with RoundTrip(conn) as trip:
        return trip.add(_LOWEST, list(partitions), [limit], row=OutboxRow)  # filled as the block ends


async def remove(conn: Connection, positions: Sequence[int]) -> None:
    async with RoundTrip(conn) as trip:
        trip.add(_REMOVE, positions)


async def backlog(conn: Connection) -> tuple[int, datetime | None]:
    """How many facts are unpublished, and when the oldest of them was decided."""
    row = await (await conn.execute(_BACKLOG)).fetchone()
    assert row is not None
    return row[0], row[1]


async def unpublished_since(conn: Connection) -> dict[int, datetime]:
    """By partition when the oldest of its unpublished facts was decided.

    From one partition to the next by index: most of what a scan would meet is published and dead.
    """
    return dict(await (await conn.execute(_SINCE)).fetchall())


async def strays(conn: Connection, partitions: int) -> list[int]:
    """Those of unpublished facts that are none of so many."""
    rows = await (await conn.execute(_STRAYS, [partitions])).fetchall()
    return [partition for (partition,) in rows]


async def contains(conn: Connection, event_id: UUID) -> bool:
    row = await (await conn.execute(_CONTAINS, [event_id])).fetchone()
    return bool(row and row[0])


async def declare_leases(conn: Connection, partitions: Collection[int]) -> None:
    """Safe to repeat and to race."""
    await conn.execute(_DECLARE_LEASES, [list(partitions)])


async def lease(conn: Connection, owner: UUID, partitions: Collection[int], time: timedelta) -> set[int]:
    """The partitions that are this owner's for so long, whether new or renewed. Waits for nobody."""
    values = {"owner": owner, "partitions": list(partitions), "time": time}
    rows = await (await conn.execute(_LEASE, values)).fetchall()
    return {partition for (partition,) in rows}


async def unowned(conn: Connection, partitions: Collection[int], time: timedelta) -> list[int]:
    """The partitions that nobody has owned for longer than this."""
    rows = await (await conn.execute(_UNOWNED, [list(partitions), time])).fetchall()
    return [partition for (partition,) in rows]


async def release(conn: Connection, owner: UUID) -> None:
    """Lets others take at once what this owner had."""
    await conn.execute(_RELEASE, [owner])
