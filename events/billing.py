"""Facts decided by the billing service. `balance` is what the account holds afterwards."""

from typing import ClassVar, Literal
from uuid import UUID

from choreo.message.catalog import publishes
from choreo.message.decider import types_of
from choreo.message.fact import Amount, Balance, Fact


class AccountCreated(Fact):
    SUBJECT: ClassVar[str] = "account_id"
    TELLS: ClassVar[tuple[str, ...]] = ("currency",)

    account_id: UUID
    user_id: UUID
    currency: str


class MoneyDeposited(Fact):
    SUBJECT: ClassVar[str] = "entry_id"
    TELLS: ClassVar[tuple[str, ...]] = ("amount", "balance")

    entry_id: UUID
    user_id: UUID
    amount: Amount
    balance: Balance


class MoneyWithdrawn(Fact):
    SUBJECT: ClassVar[str] = "entry_id"
    TELLS: ClassVar[tuple[str, ...]] = ("amount", "balance")

    entry_id: UUID
    user_id: UUID
    amount: Amount
    balance: Balance


class PaymentConfirmed(Fact):
    SUBJECT: ClassVar[str] = "order_id"
    TELLS: ClassVar[tuple[str, ...]] = ("amount", "balance")

    payment_id: UUID
    order_id: UUID
    user_id: UUID
    amount: Amount
    balance: Balance


class PaymentRejected(Fact):
    SUBJECT: ClassVar[str] = "order_id"
    TELLS: ClassVar[tuple[str, ...]] = ("amount", "reason", "balance")

    order_id: UUID
    user_id: UUID
    amount: Amount
    reason: Literal["insufficient_funds", "order_cancelled"]
    balance: Balance


class PaymentRefunded(Fact):
    SUBJECT: ClassVar[str] = "order_id"
    TELLS: ClassVar[tuple[str, ...]] = ("amount", "balance")

    payment_id: UUID
    order_id: UUID
    user_id: UUID
    amount: Amount
    balance: Balance


BillingFact = (
    AccountCreated | MoneyDeposited | MoneyWithdrawn | PaymentConfirmed | PaymentRejected | PaymentRefunded
)
publishes("billing", *types_of(BillingFact))
