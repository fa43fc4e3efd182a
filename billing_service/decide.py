"""The only place where money is decided about. An order for exactly the balance is paid."""

from datetime import datetime
from typing import Literal, assert_never
from uuid import UUID

from billing_service.commands import (
    Commands,
    DecidePayment,
    Deposit,
    InsufficientFunds,
    NoAccount,
    OpenAccount,
    Reactions,
    UndoPayment,
    Withdraw,
)
from billing_service.state import Account, Billing, Payment
from choreo.message.decider import Decision
from choreo.message.envelope import derived_id, event_id
from events.billing import (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRefunded,
    PaymentRejected,
)

SERVICE = "billing"


def decide(command: Commands | Reactions, state: Billing, now: datetime, *, currency: str) -> Decision:
    account = state.account
    match command:
        case OpenAccount():
            return [] if account else [_account_created(command, currency)]
        case DecidePayment():
            return _decide_payment(command, state)
        case UndoPayment():
            return _undo_payment(command, state)
        case Deposit() | Withdraw():
            return NoAccount() if account is None else _decide_movement(command, account)
        case _:
            assert_never(command)


def _decide_movement(command: Deposit | Withdraw, account: Account) -> Decision:
    match command:
        case Deposit():
            return [_deposited(command, account)]
        case Withdraw() if account.balance < command.amount:
            return InsufficientFunds(balance=account.balance, requested=command.amount)
        case Withdraw():
            return [_withdrawn(command, account)]


def _decide_payment(command: DecidePayment, state: Billing) -> Decision:
    account, payment = state.account, state.payments[command.order_id]
    if account is None or payment.outcome != "waiting":
        return []
    if account.balance < payment.amount:
        return [_rejected(payment, "insufficient_funds", account.balance)]
    return [
        PaymentConfirmed(
            payment_id=_payment_id(payment),
            order_id=payment.order_id,
            user_id=payment.user_id,
            amount=payment.amount,
            balance=account.balance - payment.amount,
        )
    ]


def _undo_payment(command: UndoPayment, state: Billing) -> Decision:
    """What was taken goes back, once. What still waits is never paid."""
    balance = state.account.balance if state.account else 0
    if command.order_id not in state.payments:
        raise LookupError(f"order {command.order_id} was cancelled, and nobody has asked for its payment")
    payment = state.payments[command.order_id]
    match payment.outcome:
        case "waiting":
            return [_rejected(payment, "order_cancelled", balance)]
        case "confirmed":
            return [
                PaymentRefunded(
                    payment_id=_payment_id(payment),
                    order_id=payment.order_id,
                    user_id=payment.user_id,
                    amount=payment.amount,
                    balance=balance + payment.amount,
                )
            ]
        case "rejected" | "refunded":
            return []


def _rejected(
    payment: Payment, reason: Literal["insufficient_funds", "order_cancelled"], balance: int
) -> PaymentRejected:
    return PaymentRejected(
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount=payment.amount,
        reason=reason,
        balance=balance,
    )


def _payment_id(payment: Payment) -> UUID:
    return derived_id("payment", payment.order_id)


def _account_created(command: OpenAccount, currency: str) -> AccountCreated:
    account_id = derived_id("account", command.user_id)
    return AccountCreated(account_id=account_id, user_id=command.user_id, currency=currency)


def _deposited(command: Deposit, account: Account) -> MoneyDeposited:
    return MoneyDeposited(
        entry_id=event_id(SERVICE, command.cause.id, MoneyDeposited.__name__),
        user_id=command.user_id,
        amount=command.amount,
        balance=account.balance + command.amount,
    )


def _withdrawn(command: Withdraw, account: Account) -> MoneyWithdrawn:
    return MoneyWithdrawn(
        entry_id=event_id(SERVICE, command.cause.id, MoneyWithdrawn.__name__),
        user_id=command.user_id,
        amount=command.amount,
        balance=account.balance - command.amount,
    )
