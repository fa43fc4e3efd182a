"""What the order service can be asked to do."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from choreo.message.decider import Refusal, UserCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOrder(UserCommand):
    order_id: UUID
    price: int
    description: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOrder(UserCommand):
    """By its user. A paid order may be cancelled, too: billing gives the money back."""

    order_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireOrder(UserCommand):
    """By the clock, once every answer that came in time has been heard. It goes on with the order's flow."""

    order_id: UUID


Commands = PlaceOrder | CancelOrder | ExpireOrder


@dataclass(frozen=True, slots=True)
class NoSuchOrder(Refusal):
    """Nobody placed it, or somebody else did."""

    remembered: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class AlreadyOver(Refusal):
    """Nothing is left of this order that could be cancelled."""

    status: Literal["rejected", "cancelled", "refunded"]


@dataclass(frozen=True, slots=True)
class NotDue(Refusal):
    """Its time is not up. It may be asked again."""

    remembered: ClassVar[bool] = False

    decide_by: datetime
