"""Which facts move billing to decide something."""

from collections.abc import Sequence
from typing import assert_never

from billing_service.commands import DecidePayment, OpenAccount, Reactions, UndoPayment
from billing_service.evolve import Applied
from billing_service.state import Billing, Payment
from choreo.message.envelope import Event
from events.billing import (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRefunded,
    PaymentRejected,
)
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered


def react(event: Event[Applied], state: Billing) -> Sequence[Reactions]:
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
        case MoneyDeposited() | MoneyWithdrawn() | PaymentConfirmed() | PaymentRejected() | PaymentRefunded():
            return []
        case unknown:
            assert_never(unknown)


def _decide(payment: Payment) -> DecidePayment:
    return DecidePayment(cause=payment.cause, user_id=payment.user_id, order_id=payment.order_id)
