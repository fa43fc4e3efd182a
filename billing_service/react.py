"""Which facts move billing to decide something."""

from collections.abc import Sequence

from billing_service.commands import DecidePayment, OpenAccount, UndoPayment
from billing_service.state import Billing, Payment
from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from events.billing import AccountCreated
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered


def react(event: Event[Fact], state: Billing) -> Sequence[Command]:
    match event.data:
        case UserRegistered(user_id=user_id):
            return [OpenAccount(cause=event.cause, user_id=user_id)]
        case OrderCreated(order_id=order_id):
            return [_decide(state.payments[order_id])]
        case OrderCancelled(user_id=user_id, order_id=order_id):
            return [UndoPayment(cause=event.cause, user_id=user_id, order_id=order_id)]
        case AccountCreated():
            waiting = [payment for payment in state.payments.values() if payment.outcome == "waiting"]
            return [_decide(payment) for payment in sorted(waiting, key=lambda payment: payment.step)]
    return []


def _decide(payment: Payment) -> DecidePayment:
    return DecidePayment(cause=payment.cause, user_id=payment.user_id, order_id=payment.order_id)
