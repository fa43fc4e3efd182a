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

ACCOUNT_BY_ID = """/* accounts.by_id */
SELECT id, user_id::text, NULL::uuid FROM accounts WHERE id BETWEEN %(first)s AND %(last)s"""

ENTRY_BY_ID = """/* ledger.by_id: with the order's flow; else with that of the last input before the entry */
SELECT entry_id, ledger.user_id::text, coalesce(payments.correlation_id, deciding.correlation_id) FROM ledger
LEFT JOIN payments USING (order_id)
LEFT JOIN LATERAL (
    SELECT correlation_id FROM journal
    WHERE key = ledger.user_id::text AND decided_at = ledger.at AND journal.step < ledger.step
    ORDER BY position DESC LIMIT 1) AS deciding ON true
WHERE entry_id BETWEEN %(first)s AND %(last)s AND side = 'customer'"""

LACK_AN_ACCOUNT = """/* payments.lack_an_account: of these, the orders whose account is not there yet */
SELECT event_id FROM payments WHERE outcome = 'waiting' AND event_id = ANY(%b::uuid[])"""


async def account_of(engine: AsyncEngine, user_id: UUID) -> Row[Any] | None:
    async with engine.connect() as conn:
        return (await conn.execute(select(accounts).where(accounts.c.user_id == user_id))).first()


async def entries_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """The customer's legs, newest first."""
    query = select(ledger).where(ledger.c.user_id == user_id, ledger.c.side == "customer")
    return await page.rows(engine, query, ledger.c.step)
