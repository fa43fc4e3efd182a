"""How facts change what the order service knows. Live handling and replay run these same lines."""

from dataclasses import replace
from typing import assert_never
from uuid import UUID

from choreo.message.envelope import Event
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.order import OrderCancelled, OrderCreated, OrderFact
from order_service.state import Change, Order, Orders

Consumed = PaymentConfirmed | PaymentRejected | PaymentRefunded
Applied = Consumed | OrderFact


def evolve(state: Orders, event: Event[Applied]) -> Orders:
    """Raises LookupError for a payment or a cancel of an order nobody placed here."""
    match event.data:
        case OrderCreated() as fact:
            order = Order(
                id=fact.order_id,
                user_id=fact.user_id,
                price=fact.price,
                description=fact.description,
                created_at=event.time,
                updated_at=event.time,
                decide_by=fact.decide_by,
                step=event.applied_sequence,
                event_id=event.id,
                correlation_id=event.correlation_id,
                trace_id=event.trace_id,
            )
            return _with_order(state, event, order)
        case PaymentConfirmed() as fact:
            return _with_order(
                state, event, replace(_touched(state, event, fact.order_id), payment="confirmed")
            )
        case PaymentRejected() as fact:
            order = _touched(state, event, fact.order_id)
            return _with_order(state, event, replace(order, payment="rejected", rejection_reason=fact.reason))
        case PaymentRefunded() as fact:
            return _with_order(state, event, replace(_touched(state, event, fact.order_id), refunded=True))
        case OrderCancelled() as fact:
            order = _touched(state, event, fact.order_id)
            return _with_order(state, event, replace(order, cancel_reason=fact.reason))
        case unknown:
            assert_never(unknown)


def _with_order(state: Orders, event: Event[Applied], order: Order) -> Orders:
    """A fact that comes late may leave the status what it was."""
    before = order.changes[-1] if order.changes else None
    if before is None or (before["status"], before["reason"]) != (order.status, order.reason):
        at = order.updated_at.isoformat()
        change = Change(step=event.applied_sequence, status=order.status, reason=order.reason, at=at)
        order = replace(order, changes=[*order.changes, change])
    return replace(state, orders={**state.orders, order.id: order})


def _touched(state: Orders, event: Event[Applied], order_id: UUID) -> Order:
    """The order as of the event. A fact that arrives late does not turn its time back."""
    if order_id not in state.orders:
        raise LookupError(f"{event.type} {event.id} is about order {order_id}, which was never placed here")
    order = state.orders[order_id]
    return replace(order, updated_at=max(order.updated_at, event.time))
