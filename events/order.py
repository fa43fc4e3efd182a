"""Facts decided by the order service."""

from typing import ClassVar, Literal
from uuid import UUID

from choreo.message.catalog import publishes
from choreo.message.decider import types_of
from choreo.message.fact import Amount, Fact, Moment


class OrderCreated(Fact):
    SUBJECT: ClassVar[str] = "order_id"
    TELLS: ClassVar[tuple[str, ...]] = ("price", "description")

    order_id: UUID
    user_id: UUID
    price: Amount
    description: str | None
    decide_by: Moment


class OrderCancelled(Fact):
    SUBJECT: ClassVar[str] = "order_id"
    TELLS: ClassVar[tuple[str, ...]] = ("reason",)

    order_id: UUID
    user_id: UUID
    reason: Literal["by_user", "expired"]


OrderFact = OrderCreated | OrderCancelled
publishes("order", *types_of(OrderFact))
