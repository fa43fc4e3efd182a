"""The notifications, read from their table. Nothing is asked of this service over HTTP but to read."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Row

from choreo.chassis.http.pages import Page
from choreo.chassis.http.problems import not_found
from choreo.chassis.http.routes import Paging, Router, User, example
from choreo.chassis.runtime import Runtime
from events.notification import NotificationKind
from notification_service import queries
from notification_service.state import Notifications


class NotificationView(BaseModel):
    model_config = example(
        id="3a40060f-f0fe-5059-a2c8-3520be45ab5e",
        user_id="b7841663-98cb-5009-999d-5734b6136895",
        order_id="c30bb1d6-7f25-54d9-a38b-5e4f1a498f84",
        kind="order_confirmed",
        subject="Good news: your order for 300.00 is confirmed",
        text="We are glad to tell you that your order c30bb1d6-7f25-54d9-a38b-5e4f1a498f84 for 300.00 is "
        "paid and confirmed.\nYour account now holds 100.00. Thank you!\n",
        channel="email",
        status="sent",
        created_at="2026-11-23T12:00:02.340000Z",
        sent_at="2026-11-23T12:00:02.410000Z",
    )

    id: UUID
    user_id: UUID
    order_id: UUID
    kind: NotificationKind
    subject: str
    text: str
    channel: Literal["email"]
    status: Literal["pending", "sent", "failed"]
    created_at: datetime
    sent_at: datetime | None


def router(runtime: Runtime[Notifications]) -> Router:
    routes = Router()

    @routes.get("/notifications")
    async def page_of_notifications(user: User, page: Paging) -> Page[NotificationView]:
        """The user's notifications, newest first."""
        rows = await queries.notifications_of(runtime.engine, user.user_id, page)
        return page.page(rows, item=_view, sequence=lambda row: row.step)

    @routes.get("/notifications/{id}")
    async def one(user: User, id: UUID) -> NotificationView:
        """A notification of the user's."""
        row = await queries.notification_of(runtime.engine, user.user_id, id)
        if row is None:
            raise not_found()
        return _view(row)

    return routes


def _view(row: Row[Any]) -> NotificationView:
    return NotificationView.model_validate(row, from_attributes=True)
