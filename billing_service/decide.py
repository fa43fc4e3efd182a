"""The only place where money is decided about. An order for exactly the balance is paid."""

from datetime import datetime

from billing_service.commands import (
    DecidePayment,
    Deposit,
    InsufficientFunds,
    NoAccount,
    OpenAccount,
    Withdraw,
)
from billing_service.state import Account, Billing
from events.billing import (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    PaymentConfirmed,
    PaymentRejected,
)
from events.decider import Command, Decision
from events.envelope import derived_id, event_id

SERVICE = "billing"


def decide(command: Command, state: Billing, now: datetime, *, currency: str) -> Decision:
    account = state.account
    match command:
        case OpenAccount():
            return [] if account else [_account_created(command, currency)]
        case DecidePayment():
            return _decide_payment(command, state)
        case Deposit() | Withdraw():
            return NoAccount() if account is None else _decide_movement(command, account)
    raise TypeError(f"billing cannot decide {command!r}")


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
        return [
            PaymentRejected(
                order_id=payment.order_id,
                user_id=payment.user_id,
                amount=payment.amount,
                reason="insufficient_funds",
                balance=account.balance,
            )
        ]
    return [
        PaymentConfirmed(
            payment_id=derived_id("payment", payment.order_id),
            order_id=payment.order_id,
            user_id=payment.user_id,
            amount=payment.amount,
            balance=account.balance - payment.amount,
        )
    ]


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
