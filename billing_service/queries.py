"""What billing is asked for, straight from its tables."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from billing_service.tables import accounts, ledger
from choreo.chassis.http.pages import PageRequest

WITHOUT_ACCOUNT = """/* payments.waiting: how many orders came before their account, and since when */
SELECT count(*), min(decided_at) FROM payments JOIN journal ON journal.id = payments.event_id
WHERE payments.outcome = 'waiting'"""

LACK_AN_ACCOUNT = """/* payments.lack_an_account: of these, the orders whose account is not there yet */
SELECT event_id FROM payments WHERE outcome = 'waiting' AND event_id = ANY(%b::uuid[])"""


async def account_of(engine: AsyncEngine, user_id: UUID) -> Row[Any] | None:
    async with engine.connect() as conn:
        return (await conn.execute(select(accounts).where(accounts.c.user_id == user_id))).first()


async def entries_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """The customer's legs, newest first."""
    query = (
        select(ledger)
        .where(ledger.c.user_id == user_id, ledger.c.side == "customer")
        .order_by(ledger.c.step.desc())
        .limit(page.fetch)
    )
    if page.before is not None:
        query = query.where(ledger.c.step < page.before)
    async with engine.connect() as conn:
        return (await conn.execute(query)).all()
