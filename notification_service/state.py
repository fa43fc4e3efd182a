"""What the notification service knows of one user."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from choreo.message.envelope import Cause
from choreo.message.state import State
from events.notification import NotificationKind


@dataclass(frozen=True, slots=True)
class Recipient:
    user_id: UUID
    login: str
    email: str


@dataclass(frozen=True, slots=True)
class Notification:
    """One per order and kind. It is mailed once its user's address is known, which may be later."""

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
    step: int
    event_id: UUID
    correlation_id: UUID
    trace_id: str

    @property
    def cause(self) -> Cause:
        """The fact it tells of, however long its mail had to wait."""
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)


@dataclass(frozen=True, slots=True)
class Notifications(State):
    recipient: Recipient | None = None
    notifications: Mapping[UUID, Notification] = field(default_factory=dict)
    """By id; never all of a user's notifications, only those the inputs concern."""
