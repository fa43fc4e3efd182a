"""A notification's fate is settled by the first answer recorded for it."""

from datetime import datetime
from typing import assert_never

from choreo.message.decider import Decision
from events.notification import NotificationFailed, NotificationSent
from notification_service.commands import Commands, RecordDelivery
from notification_service.state import Notifications

SERVICE = "notification"


def decide(command: Commands, state: Notifications, now: datetime) -> Decision:
    match command:
        case RecordDelivery():
            return _record_delivery(command, state)
        case _:
            assert_never(command)


def _record_delivery(command: RecordDelivery, state: Notifications) -> Decision:
    notification = state.notifications[command.notification_id]
    if notification.status != "pending":
        return []
    outcome = NotificationSent if command.delivered else NotificationFailed
    return [
        outcome(
            notification_id=notification.id,
            user_id=notification.user_id,
            order_id=notification.order_id,
            kind=notification.kind,
            channel=notification.channel,
        )
    ]
