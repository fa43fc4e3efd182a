"""What billing knows of one user. Amounts and balances are minor units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from choreo.message.envelope import Cause
from choreo.message.state import State


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    user_id: UUID
    currency: str
    balance: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """What became of an order's payment. It waits while there is no account to pay from."""

    order_id: UUID
    user_id: UUID
    amount: int
    outcome: Literal["waiting", "confirmed", "rejected", "refunded"]
    step: int
    """Orders that wait are decided in this order."""
    event_id: UUID
    correlation_id: UUID
    trace_id: str

    @property
    def cause(self) -> Cause:
        """The OrderCreated it follows from, however long it had to wait."""
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a movement of money. The two legs of an entry sum to zero."""

    entry_id: UUID
    side: Literal["customer", "world", "shop"]
    user_id: UUID
    kind: Literal["deposit", "withdrawal", "payment", "refund"]
    amount: int
    """Signed: what this side gains."""
    balance: int
    """What the customer's account holds afterwards."""
    order_id: UUID | None
    at: datetime
    step: int


@dataclass(frozen=True, slots=True)
class Billing(State):
    account: Account | None = None
    payments: Mapping[UUID, Payment] = field(default_factory=dict)
    """By order."""
    ledger: Mapping[tuple[UUID, str], Leg] = field(default_factory=dict)
    """By entry and side. Legs are only ever added, and none is needed to decide."""
