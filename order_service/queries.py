"""What the order service is asked for, straight from its table."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.pages import PageRequest
from order_service.tables import orders

UNDECIDED = """/* orders.undecided: how many, and since when the oldest */
SELECT count(*), min(created_at) FROM orders WHERE status = 'created'"""


async def order_of(engine: AsyncEngine, user_id: UUID, order_id: UUID) -> Row[Any] | None:
    """None for an order that is not there, or not this user's."""
    async with engine.connect() as conn:
        query = select(orders).where(orders.c.id == order_id, orders.c.user_id == user_id)
        return (await conn.execute(query)).first()


async def orders_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """Newest first."""
    query = select(orders).where(orders.c.user_id == user_id).order_by(orders.c.step.desc()).limit(page.fetch)
    if page.before is not None:
        query = query.where(orders.c.step < page.before)
    async with engine.connect() as conn:
        return (await conn.execute(query)).all()
