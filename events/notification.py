"""Facts decided by the notification service."""

from typing import ClassVar, Literal
from uuid import UUID

from choreo.message.catalog import publishes
from choreo.message.decider import types_of
from choreo.message.fact import Fact

NotificationKind = Literal["order_confirmed", "order_rejected", "order_cancelled", "order_refunded"]


class _Delivery(Fact):
    SUBJECT: ClassVar[str] = "notification_id"
    TELLS: ClassVar[tuple[str, ...]] = ("kind",)

    notification_id: UUID
    user_id: UUID
    order_id: UUID
    kind: NotificationKind
    channel: Literal["email"]


class NotificationSent(_Delivery):
    """The mail server took it."""


class NotificationFailed(_Delivery):
    """The mail server refused it for good."""


NotificationFact = NotificationSent | NotificationFailed
publishes("notification", *types_of(NotificationFact))
