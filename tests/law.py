"""What holds of money, status and notifications once nothing is on its way any more.

However cancels, deadlines, payments and registrations met, and in whichever order the topics were read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from choreo.message.fact import Fact
from events.billing import MoneyDeposited, MoneyWithdrawn, PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.notification import NotificationFailed, NotificationSent
from events.order import OrderCancelled, OrderCreated

GAIN: Mapping[Any, int] = {MoneyDeposited: +1, MoneyWithdrawn: -1, PaymentConfirmed: -1, PaymentRefunded: +1}
KIND: Mapping[Any, str] = {
    "insufficient_funds": "order_rejected",
    "order_cancelled": "order_cancelled",
    PaymentConfirmed: "order_confirmed",
    PaymentRefunded: "order_refunded",
}


class Leg(NamedTuple):
    """One side of a movement of money."""

    user_id: UUID
    order_id: UUID | None
    side: str
    amount: int


@dataclass(frozen=True)
class Ending:
    """What is to be seen at the end."""

    facts: Sequence[Fact]
    """Each once."""
    statuses: Mapping[UUID, str]
    """By order, in the order service."""
    payments: Mapping[UUID, str]
    """By order, in billing: their outcomes."""
    balances: Mapping[UUID, int]
    """By user."""
    legs: Sequence[Leg]
    told: Sequence[tuple[UUID, str]]
    """Order and kind of every notification."""

    def of(self, *types: type[Fact]) -> Iterator[Any]:
        return (fact for fact in self.facts if isinstance(fact, types))


def breaches(ending: Ending) -> list[str]:
    """A sentence for each; none where the law holds."""
    return [*_of_money(ending), *_of_orders(ending), *_of_notifications(ending)]


def _of_money(ending: Ending) -> Iterator[str]:
    moved, held = Counter[UUID](), Counter[UUID]()
    for fact in ending.of(*GAIN):
        moved[fact.user_id] += GAIN[type(fact)] * fact.amount
    for leg in ending.legs:
        if leg.side == "customer":
            held[leg.user_id] += leg.amount
    if total := sum(leg.amount for leg in ending.legs):
        yield f"the ledger sums to {total}"
    for user, balance in ending.balances.items():
        if not balance == moved[user] == held[user]:
            yield f"{user} has {balance}, by the facts {moved[user]} and by the ledger {held[user]}"
        if balance < 0:
            yield f"{user} has {balance}"


def _of_orders(ending: Ending) -> Iterator[str]:
    """One outcome each, and the shop has kept the money of those that are confirmed, and of no others."""
    outcomes = Counter(fact.order_id for fact in ending.of(PaymentConfirmed, PaymentRejected))
    confirmed = {fact.order_id for fact in ending.of(PaymentConfirmed)}
    cancels = Counter(fact.order_id for fact in ending.of(OrderCancelled))
    refunds = Counter(fact.order_id for fact in ending.of(PaymentRefunded))
    kept = Counter[UUID | None]()
    for leg in ending.legs:
        if leg.side == "shop":
            kept[leg.order_id] += leg.amount
    for order in ending.of(OrderCreated):
        id, status = order.order_id, ending.statuses[order.order_id]
        if (outcomes[id], cancels[id] > 1, refunds[id] > 1) != (1, False, False):
            yield f"order {id} has {outcomes[id]} outcomes, {cancels[id]} cancels, {refunds[id]} refunds"
        if kept[id] != (order.price if status == "confirmed" else 0):
            yield f"order {id} for {order.price} is {status}, and the shop has {kept[id]} for it"
        right = _status(paid=id in confirmed, cancelled=cancels[id] > 0)
        payment = "rejected" if status == "cancelled" else status
        if (status, ending.payments[id]) != (right, payment):
            yield f"order {id} is {status} and its payment {ending.payments[id]}; it should be {right}"


def _status(*, paid: bool, cancelled: bool) -> str:
    match paid, cancelled:
        case True, True:
            return "refunded"
        case True, False:
            return "confirmed"
        case False, True:
            return "cancelled"
    return "rejected"


def _of_notifications(ending: Ending) -> Iterator[str]:
    due = Counter(
        (fact.order_id, KIND[fact.reason if isinstance(fact, PaymentRejected) else type(fact)])
        for fact in ending.of(PaymentConfirmed, PaymentRejected, PaymentRefunded)
    )
    ends = ending.of(NotificationSent, NotificationFailed)
    for what, found in (
        ("told", Counter(ending.told)),
        ("mailed", Counter((end.order_id, end.kind) for end in ends)),
    ):
        for order, kind in due.keys() | found.keys():
            if (found[order, kind], due[order, kind]) != (1, 1):
                yield f"{found[order, kind]} times {what}: {kind} of order {order}, due {due[order, kind]}"
