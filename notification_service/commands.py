"""What the notification service can be asked to do."""

from dataclasses import dataclass
from uuid import UUID

from choreo.message.decider import UserCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDelivery(UserCommand):
    """What the mail server answered. Its cause is the notification's own, so that the flow goes on."""

    notification_id: UUID
    delivered: bool
    """False only if the mail server refused for good; whatever may still work is tried again instead."""


Commands = RecordDelivery
