"""Words for tests in a line: `billing.given(deposit(113_11), order(8_16), cancel()).then(refunded(8_16))`.

One customer, who is registered unless a step says when, and whose orders are numbered; the latest need not be
named. A word is something that a service hears, is asked, or decides. `choreo minimize --expect` writes such
lines from what was recorded: it reads `WORDS`, `SERVICES` and `BEGINS_WITH`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from billing_service.commands import Deposit, Withdraw
from billing_service.state import Billing
from choreo.message.decider import Command
from choreo.message.fact import Fact
from order_service.commands import CancelOrder, PlaceOrder
from order_service.state import Orders
from tests.unit import facts
from tests.unit.choreography import CONSUMED, DECIDERS
from tests.unit.facts import ADA, order_id
from tests.unit.spec import Spec, request

SERVICES = {"billing": "billing", "order": "orders"}
"""What each is called here."""
BEGINS_WITH = ("UserRegistered", "unregistered")
"""What has happened before the first step, where a service hears of it; and the step that says it has not."""
WORDS = {
    "UserRegistered": ("registered",),
    "Deposit": ("deposit", "amount"),
    "Withdraw": ("withdraw", "amount"),
    "PlaceOrder": ("place", "price"),
    "CancelOrder": ("ask_to_cancel", "order_id"),
    "OrderCreated": ("order", "price"),
    "OrderCancelled": ("cancel", "order_id"),
    "MoneyDeposited": ("deposited", "amount"),
    "MoneyWithdrawn": ("withdrawn", "amount"),
    "PaymentConfirmed": ("confirmed", "amount", "order_id"),
    "PaymentRejected": ("rejected", "amount", "order_id"),
    "PaymentRefunded": ("refunded", "amount", "order_id"),
}
"""By type: the word, and the fields that it is given."""


@dataclass(frozen=True)
class Word:
    type: str
    make: Callable[[int, int], Fact | Command] | None = None
    """Makes it of the number of the order and of the step. None: it is only decided."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What `then` looks at."""
    number: int | None = None
    """Of the order. None: the latest."""


@dataclass(frozen=True)
class Given:
    spec: Spec[Any]
    orders: int

    def then(self, *words: Word) -> None:
        """The last step led to these, in this order. Looks only at the fields that are named."""
        decided = self.spec.decided
        assert [type(fact).__name__ for fact in decided] == [word.type for word in words]
        for fact, word in zip(decided, words, strict=True):
            told = dict(word.fields)
            if "order_id" in type(fact).model_fields:
                told["order_id"] = order_id(word.number or self.orders)
            assert {name: getattr(fact, name) for name in told} == told


@dataclass(frozen=True)
class Told:
    """A service that is told a story."""

    service: str
    empty: Any

    def given(self, *words: Word) -> Given:
        spec, orders = Spec(DECIDERS[self.service], self.empty), 0
        hears = {fact.__name__ for fact in CONSUMED[self.service]}
        if BEGINS_WITH[0] in hears and not {word.type for word in words} & set(BEGINS_WITH):
            spec = spec.heard(facts.registered)
        for step, word in enumerate(words, start=1):
            orders += word.type in ("OrderCreated", "PlaceOrder")
            if word.make:
                made = word.make(word.number or orders, step)
                spec = spec.heard(made) if isinstance(made, Fact) else spec.when(made)
        return Given(spec, orders)


billing = Told("billing", Billing())
orders = Told("order", Orders())


def registered() -> Word:
    return Word("UserRegistered", lambda order, step: facts.registered)


def unregistered() -> Word:
    """Nobody has heard of the registration yet."""
    return Word("unregistered")


def deposit(amount: int) -> Word:
    return Word("Deposit", lambda order, step: Deposit(cause=request(step), user_id=ADA, amount=amount))


def withdraw(amount: int) -> Word:
    return Word("Withdraw", lambda order, step: Withdraw(cause=request(step), user_id=ADA, amount=amount))


def place(price: int) -> Word:
    def make(order: int, step: int) -> PlaceOrder:
        id = order_id(order)
        return PlaceOrder(cause=request(step), user_id=ADA, order_id=id, price=price, description=None)

    return Word("PlaceOrder", make)


def ask_to_cancel(number: int | None = None) -> Word:
    def make(order: int, step: int) -> CancelOrder:
        return CancelOrder(cause=request(step), user_id=ADA, order_id=order_id(order))

    return Word("CancelOrder", make, number=number)


def order(price: int, **more: Any) -> Word:
    made = {"price": price, **more}
    return Word("OrderCreated", lambda order, step: facts.order_created(order, price), made)


def cancel(number: int | None = None, **more: Any) -> Word:
    return Word("OrderCancelled", lambda order, step: facts.order_cancelled(order), more, number)


def deposited(amount: int, **more: Any) -> Word:
    return Word("MoneyDeposited", None, {"amount": amount, **more})


def withdrawn(amount: int, **more: Any) -> Word:
    return Word("MoneyWithdrawn", None, {"amount": amount, **more})


def confirmed(amount: int, number: int | None = None, **more: Any) -> Word:
    made = {"amount": amount, **more}
    return Word("PaymentConfirmed", lambda order, step: facts.confirmed(order, amount), made, number)


def rejected(amount: int, number: int | None = None, **more: Any) -> Word:
    made = {"amount": amount, **more}
    return Word("PaymentRejected", lambda order, step: facts.rejected(order, amount), made, number)


def refunded(amount: int, number: int | None = None, **more: Any) -> Word:
    made = {"amount": amount, **more}
    return Word("PaymentRefunded", lambda order, step: facts.refunded(order, amount), made, number)
