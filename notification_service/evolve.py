"""How facts change what the notification service knows. Live handling and replay run these same lines."""

from dataclasses import replace

from choreo.message.envelope import Event, derived_id
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.notification import NotificationFailed, NotificationKind, NotificationSent
from events.user import UserRegistered
from notification_service import texts
from notification_service.state import Notification, Notifications, Recipient
from notification_service.texts import Text


def evolve(state: Notifications, event: Event[Fact]) -> Notifications:
    match event.data:
        case UserRegistered() as fact:
            return replace(state, recipient=Recipient(fact.user_id, fact.login, fact.email))
        case PaymentConfirmed() as fact:
            pending = _pending(event, fact, "order_confirmed", texts.order_confirmed(fact))
            return _with_notification(state, pending)
        case PaymentRejected(reason="insufficient_funds") as fact:
            pending = _pending(event, fact, "order_rejected", texts.order_rejected(fact))
            return _with_notification(state, pending)
        case PaymentRejected(reason="order_cancelled") as fact:
            pending = _pending(event, fact, "order_cancelled", texts.order_cancelled(fact))
            return _with_notification(state, pending)
        case PaymentRefunded() as fact:
            pending = _pending(event, fact, "order_refunded", texts.order_refunded(fact))
            return _with_notification(state, pending)
        case NotificationSent() as fact:
            notification = state.notifications[fact.notification_id]
            return _with_notification(state, replace(notification, status="sent", sent_at=event.time))
        case NotificationFailed() as fact:
            notification = state.notifications[fact.notification_id]
            return _with_notification(state, replace(notification, status="failed"))
    return state


def _with_notification(state: Notifications, notification: Notification) -> Notifications:
    return replace(state, notifications={**state.notifications, notification.id: notification})


def _pending(
    event: Event[Fact],
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
        step=event.step,
        event_id=event.id,
        correlation_id=event.correlation_id,
        trace_id=event.trace_id,
    )
