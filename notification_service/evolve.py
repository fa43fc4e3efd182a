"""How facts change what the notification service knows. Live handling and replay run these same lines."""

from dataclasses import replace
from typing import assert_never

from choreo.message.envelope import Event, derived_id
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.notification import NotificationFact, NotificationFailed, NotificationKind, NotificationSent
from events.user import UserRegistered
from notification_service import texts
from notification_service.state import Notification, Notifications, Recipient
from notification_service.texts import Text

Consumed = UserRegistered | PaymentConfirmed | PaymentRejected | PaymentRefunded
Applied = Consumed | NotificationFact


def evolve(state: Notifications, event: Event[Applied]) -> Notifications:
    match event.data:
        case UserRegistered() as fact:
            return replace(state, recipient=Recipient(fact.user_id, fact.login, fact.email))
        case PaymentConfirmed() as fact:
            pending = _pending(event, fact, "order_confirmed", texts.order_confirmed(fact))
            return _with_notification(state, pending)
        case PaymentRejected() as fact:
            return _with_notification(state, _rejected(event, fact))
        case PaymentRefunded() as fact:
            pending = _pending(event, fact, "order_refunded", texts.order_refunded(fact))
            return _with_notification(state, pending)
        case NotificationSent() as fact:
            notification = state.notifications[fact.notification_id]
            return _with_notification(state, replace(notification, status="sent", sent_at=event.time))
        case NotificationFailed() as fact:
            notification = state.notifications[fact.notification_id]
            return _with_notification(state, replace(notification, status="failed"))
        case unknown:
            assert_never(unknown)


def _with_notification(state: Notifications, notification: Notification) -> Notifications:
    return replace(state, notifications={**state.notifications, notification.id: notification})


def _rejected(event: Event[Applied], fact: PaymentRejected) -> Notification:
    match fact.reason:
        case "insufficient_funds":
            return _pending(event, fact, "order_rejected", texts.order_rejected(fact))
        case "order_cancelled":
            return _pending(event, fact, "order_cancelled", texts.order_cancelled(fact))
        case _:
            assert_never(fact.reason)


def _pending(
    event: Event[Applied],
    fact: PaymentConfirmed | PaymentRejected | PaymentRefunded,
    kind: NotificationKind,
    text: Text,
) -> Notification:
    return Notification(
        id=derived_id("notification", fact.order_id, kind),
        user_id=fact.user_id,
        order_id=fact.order_id,
        kind=kind,
        subject=text.subject,
        text=text.text,
        channel="email",
        status="pending",
        created_at=event.time,
        sent_at=None,
        step=event.applied_sequence,
        event_id=event.id,
        correlation_id=event.correlation_id,
        trace_id=event.trace_id,
    )
