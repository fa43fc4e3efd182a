"""What the order service can be asked to do."""

from dataclasses import dataclass
from uuid import UUID

from events.decider import UserCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOrder(UserCommand):
    order_id: UUID
    price: int
    description: str | None
