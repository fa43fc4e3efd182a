"""An order is always taken. Whether it is paid is for billing to decide; its end may be decided here."""

from datetime import datetime, timedelta
from typing import assert_never

from choreo.message.decider import Decision
from events.order import OrderCancelled, OrderCreated
from order_service.commands import (
    AlreadyOver,
    CancelOrder,
    Commands,
    ExpireOrder,
    NoSuchOrder,
    NotDue,
    PlaceOrder,
)
from order_service.state import Cancelled, Confirmed, Created, Order, Orders, Refunded, Rejected

SERVICE = "order"


def decide(command: Commands, state: Orders, now: datetime, *, deadline: timedelta) -> Decision:
    """`deadline` is how long an order may stay undecided."""
    match command:
        case PlaceOrder():
            return [_created(command, decide_by=now + deadline)]
        case CancelOrder(order_id=order_id):
            order = state.orders.get(order_id)
            return NoSuchOrder() if order is None else _cancel(order)
        case ExpireOrder(order_id=order_id):
            return _expire(state.orders[order_id], now)
        case _:
            assert_never(command)


def _cancel(order: Order) -> Decision:
    match order.situation:
        case Created() | Confirmed():
            return [OrderCancelled(order_id=order.id, user_id=order.user_id, reason="by_user")]
        case Rejected():
            return AlreadyOver("rejected")
        case Cancelled():
            return AlreadyOver("cancelled")
        case Refunded():
            return AlreadyOver("refunded")


def _expire(order: Order, now: datetime) -> Decision:
    """Nothing for an order that was decided in the meantime."""
    match order.situation:
        case Created() if now < order.decide_by:
            return NotDue(order.decide_by)
        case Created():
            return [OrderCancelled(order_id=order.id, user_id=order.user_id, reason="expired")]
        case Confirmed() | Rejected() | Cancelled() | Refunded():
            return []


def _created(command: PlaceOrder, decide_by: datetime) -> OrderCreated:
    return OrderCreated(
        order_id=command.order_id,
        user_id=command.user_id,
        price=command.price,
        description=command.description,
        decide_by=decide_by,
    )
