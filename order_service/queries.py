"""What the order service is asked for, straight from its table."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, raw_connection
from choreo.chassis.http.pages import PageRequest
from choreo.message.envelope import Cause
from order_service.tables import orders

UNDECIDED = """/* orders.undecided: how many, and since when the oldest */
SELECT count(*), min(created_at) FROM orders WHERE status = 'created'"""

BY_ID = """/* orders.by_id */
SELECT id, user_id::text, correlation_id FROM orders WHERE id BETWEEN %(first)s AND %(last)s"""

_NEXT_DEADLINE = """/* orders.next_deadline: of those nobody has decided about */
SELECT min(decide_by) FROM orders WHERE status = 'created'"""

_FEW = 10

_UNDECIDED_SINCE = """/* orders.undecided_since: but for a few, of those placed after the last answered */
SELECT created_at FROM orders
WHERE status = 'created'
AND NOT EXISTS (SELECT FROM parked WHERE key = user_id::text)
AND decide_by > coalesce((SELECT max(decide_by) FROM orders WHERE payment <> 'undecided'), '-infinity')
ORDER BY decide_by OFFSET %s LIMIT 1"""

_DUE = """/* orders.due: whose time was up, a page after the other */
SELECT id, user_id, decide_by, event_id, correlation_id, trace_id FROM orders
WHERE status = 'created' AND decide_by <= %s AND (decide_by, id) > (%s, %s)
ORDER BY decide_by, id LIMIT %s"""


@dataclass(frozen=True, slots=True)
class Due:
    """An undecided order whose time is up."""

    id: UUID
    user_id: UUID
    decide_by: datetime
    event_id: UUID
    correlation_id: UUID
    trace_id: str

    @property
    def cause(self) -> Cause:
        """The OrderCreated, whose flow goes on."""
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)


async def next_deadline(engine: AsyncEngine) -> datetime | None:
    async with raw_connection(engine) as conn:
        row = await (await conn.execute(_NEXT_DEADLINE)).fetchone()
        return row[0] if row else None


async def undecided_since(conn: Connection) -> datetime | None:
    """Since when orders are undecided for want of anybody who decides.

    One whose user's events are parked here waits for a person. One that was overtaken waits for something of
    its own, as its user's events that are parked in billing, and so may a few others: none of them tells that
    decisions are late.
    """
    row = await (await conn.execute(_UNDECIDED_SINCE, [_FEW - 1])).fetchone()
    return row[0] if row else None


async def undecided(engine: AsyncEngine, due: datetime, at_once: int) -> AsyncIterator[list[Due]]:
    """Those that were due by then, the longest overdue first. What is decided meanwhile is left out."""
    after = datetime.min.replace(tzinfo=UTC), UUID(int=0)
    while True:
        async with raw_connection(engine) as conn, conn.cursor(row_factory=class_row(Due)) as cursor:
            await cursor.execute(_DUE, [due, *after, at_once])
            page = await cursor.fetchall()
        if not page:
            return
        yield page
        after = page[-1].decide_by, page[-1].id


async def order_of(engine: AsyncEngine, user_id: UUID, order_id: UUID) -> Row[Any] | None:
    """None for an order that is not there, or not this user's."""
    async with engine.connect() as conn:
        query = select(orders).where(orders.c.id == order_id, orders.c.user_id == user_id)
        return (await conn.execute(query)).first()


async def orders_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """Newest first."""
    return await page.rows(engine, select(orders).where(orders.c.user_id == user_id), orders.c.step)
