"""Facts to write histories with: Ada's, whose orders are numbered. Money is minor units."""

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from choreo.message.envelope import derived_id
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
from tests.unit.spec import START

ADA = derived_id("user", "ada")

registered = UserRegistered(user_id=ADA, login="Ada", email="ada@example.org")
account = AccountCreated(account_id=derived_id("account", ADA), user_id=ADA, currency="EUR")


def order_id(number: int) -> UUID:
    return derived_id("order", number)


def order_created(
    number: int = 1, price: int = 100_00, decide_by: datetime = START + timedelta(days=1)
) -> OrderCreated:
    return OrderCreated(
        order_id=order_id(number),
        user_id=ADA,
        price=price,
        description=None,
        decide_by=decide_by,
    )


def order_cancelled(number: int = 1, reason: Literal["by_user", "expired"] = "by_user") -> OrderCancelled:
    return OrderCancelled(order_id=order_id(number), user_id=ADA, reason=reason)


def deposited(amount: int, balance: int) -> MoneyDeposited:
    return MoneyDeposited(
        entry_id=derived_id("deposit", amount, balance), user_id=ADA, amount=amount, balance=balance
    )


def withdrawn(amount: int, balance: int) -> MoneyWithdrawn:
    return MoneyWithdrawn(
        entry_id=derived_id("withdrawal", amount, balance), user_id=ADA, amount=amount, balance=balance
    )


def confirmed(number: int = 1, amount: int = 100_00, balance: int = 0) -> PaymentConfirmed:
    return PaymentConfirmed(
        payment_id=derived_id("payment", order_id(number)),
        order_id=order_id(number),
        user_id=ADA,
        amount=amount,
        balance=balance,
    )


def rejected(
    number: int = 1,
    amount: int = 100_00,
    balance: int = 0,
    reason: Literal["insufficient_funds", "order_cancelled"] = "insufficient_funds",
) -> PaymentRejected:
    return PaymentRejected(
        order_id=order_id(number), user_id=ADA, amount=amount, reason=reason, balance=balance
    )


def refunded(number: int = 1, amount: int = 100_00, balance: int = 100_00) -> PaymentRefunded:
    return PaymentRefunded(
        payment_id=derived_id("payment", order_id(number)),
        order_id=order_id(number),
        user_id=ADA,
        amount=amount,
        balance=balance,
    )
