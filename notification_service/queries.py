"""What the notification service is asked for, straight from its tables."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.pages import PageRequest
from notification_service.tables import notifications

PENDING = """/* notifications.pending: how many mails are to be sent, and since when the oldest */
SELECT count(*), min(created_at) FROM notifications WHERE status = 'pending'"""

BY_ID = """/* notifications.by_id */
SELECT id, user_id::text, correlation_id FROM notifications WHERE id BETWEEN %(first)s AND %(last)s"""

LACK_A_RECIPIENT = """/* notifications.lack_a_recipient: of these events, those whose user is not known yet */
SELECT event_id FROM notifications LEFT JOIN recipients USING (user_id)
WHERE status = 'pending' AND recipients.user_id IS NULL AND event_id = ANY(%b::uuid[])"""


async def notification_of(engine: AsyncEngine, user_id: UUID, notification_id: UUID) -> Row[Any] | None:
    """None for a notification that is not there, or not this user's."""
    async with engine.connect() as conn:
        query = select(notifications).where(
            notifications.c.id == notification_id, notifications.c.user_id == user_id
        )
        return (await conn.execute(query)).first()


async def notifications_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """Newest first."""
    query = select(notifications).where(notifications.c.user_id == user_id)
    return await page.rows(engine, query, notifications.c.step)
