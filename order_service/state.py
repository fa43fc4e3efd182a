"""What the order service knows of one user's orders. Prices are minor units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypedDict
from uuid import UUID

from choreo.message.envelope import Cause
from choreo.message.state import State

RejectionReason = Literal["insufficient_funds", "order_cancelled"]
CancelReason = Literal["by_user", "expired"]
Status = Literal["created", "confirmed", "rejected", "cancelled", "refunded"]


@dataclass(frozen=True, slots=True)
class Created:
    """Nobody has decided about it yet."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """It is paid."""


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: RejectionReason | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    reason: CancelReason


@dataclass(frozen=True, slots=True)
class Refunded:
    """It was paid and the money went back."""

    reason: CancelReason | None


Situation = Created | Confirmed | Rejected | Cancelled | Refunded


class Change(TypedDict):
    """That an order's status became this. `at` is RFC 3339."""

    step: int
    status: Status
    reason: CancelReason | RejectionReason | None
    at: str


@dataclass(frozen=True, slots=True)
class Order:
    """An order and every fact about it. Its situation depends on the set of facts, not on their arrival."""

    id: UUID
    user_id: UUID
    price: int
    description: str | None
    created_at: datetime
    updated_at: datetime
    """The time of the latest fact about it."""
    decide_by: datetime
    step: int
    event_id: UUID
    correlation_id: UUID
    trace_id: str
    payment: Literal["undecided", "confirmed", "rejected"] = "undecided"
    rejection_reason: RejectionReason | None = None
    cancel_reason: CancelReason | None = None
    refunded: bool = False
    changes: Sequence[Change] = ()
    """In the order of their steps."""

    @property
    def cause(self) -> Cause:
        """The OrderCreated that an expiry follows from, however long it had to wait."""
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)

    @property
    def situation(self) -> Situation:
        if self.refunded:
            return Refunded(self.cancel_reason)
        if self.cancel_reason is not None:
            return Cancelled(self.cancel_reason)
        match self.payment:
            case "rejected":
                return Rejected(self.rejection_reason)
            case "confirmed":
                return Confirmed()
            case "undecided":
                return Created()

    @property
    def status(self) -> Status:
        match self.situation:
            case Created():
                return "created"
            case Confirmed():
                return "confirmed"
            case Rejected():
                return "rejected"
            case Cancelled():
                return "cancelled"
            case Refunded():
                return "refunded"

    @property
    def reason(self) -> CancelReason | RejectionReason | None:
        match self.situation:
            case Rejected(reason) | Cancelled(reason) | Refunded(reason):
                return reason
            case Created() | Confirmed():
                return None


@dataclass(frozen=True, slots=True)
class Orders(State):
    orders: Mapping[UUID, Order] = field(default_factory=dict)
    """By id; never all of a user's orders, only those the inputs concern."""
