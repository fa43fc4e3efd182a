"""How facts change what billing knows. Live handling and replay run these same lines."""

from dataclasses import replace
from typing import Literal, assert_never
from uuid import UUID

from billing_service.state import Account, Billing, Leg, Payment
from choreo.message.envelope import Event
from events.billing import (
    AccountCreated,
    BillingFact,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRefunded,
    PaymentRejected,
)
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered

Consumed = UserRegistered | OrderCreated | OrderCancelled
Applied = Consumed | BillingFact


def evolve(state: Billing, event: Event[Applied]) -> Billing:
    match event.data:
        case AccountCreated() as fact:
            account = Account(
                id=fact.account_id,
                user_id=fact.user_id,
                currency=fact.currency,
                balance=0,
                created_at=event.time,
            )
            return replace(state, account=account)
        case OrderCreated() as fact:
            waiting = Payment(
                order_id=fact.order_id,
                user_id=fact.user_id,
                amount=fact.price,
                outcome="waiting",
                step=event.applied_sequence,
                event_id=event.id,
                correlation_id=event.correlation_id,
                trace_id=event.trace_id,
            )
            return _with_payment(state, waiting)
        case MoneyDeposited() as fact:
            return _moved(state, event, fact, "deposit", gain=fact.amount)
        case MoneyWithdrawn() as fact:
            return _moved(state, event, fact, "withdrawal", gain=-fact.amount)
        case PaymentConfirmed() as fact:
            paid = replace(state.payments[fact.order_id], outcome="confirmed")
            state = _with_payment(state, paid)
            return _moved(state, event, fact, "payment", gain=-fact.amount, order_id=fact.order_id)
        case PaymentRejected() as fact:
            return _with_payment(state, replace(state.payments[fact.order_id], outcome="rejected"))
        case PaymentRefunded() as fact:
            state = _with_payment(state, replace(state.payments[fact.order_id], outcome="refunded"))
            return _moved(state, event, fact, "refund", gain=fact.amount, order_id=fact.order_id)
        case UserRegistered() | OrderCancelled():
            return state  # what follows from it is decided, and that is kept
        case unknown:
            assert_never(unknown)


def _with_payment(state: Billing, payment: Payment) -> Billing:
    return replace(state, payments={**state.payments, payment.order_id: payment})


def _moved(
    state: Billing,
    event: Event[Applied],
    fact: MoneyDeposited | MoneyWithdrawn | PaymentConfirmed | PaymentRefunded,
    kind: Literal["deposit", "withdrawal", "payment", "refund"],
    gain: int,
    order_id: UUID | None = None,
) -> Billing:
    """Both legs of an entry and the new balance, or nothing."""
    assert state.account is not None, f"{event.type} {event.id} moves money of a user without an account"
    customer = Leg(
        entry_id=event.id,
        side="customer",
        user_id=fact.user_id,
        kind=kind,
        amount=gain,
        balance=fact.balance,
        order_id=order_id,
        at=event.time,
        step=event.applied_sequence,
    )
    other = replace(customer, side="shop" if order_id else "world", amount=-gain)
    legs: dict[tuple[UUID, str], Leg] = {(leg.entry_id, leg.side): leg for leg in (customer, other)}
    account = replace(state.account, balance=fact.balance)
    return replace(state, account=account, ledger={**state.ledger, **legs})
