"""Judges what is in the tables once all is done: is the money right, and did each order end exactly once?

It knows rows and nothing of who wrote them, so it judges everybody alike.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Order:
    id: UUID
    price: int
    status: str


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a movement of money. Those of an entry sum to zero."""

    entry: UUID
    side: str
    user: UUID
    kind: str
    amount: int
    order: UUID | None


@dataclass(frozen=True, slots=True)
class Rows:
    orders: Sequence[Order]
    payments: Sequence[tuple[UUID, str]]
    """Order and outcome."""
    ledger: Sequence[Leg]
    balances: Sequence[tuple[UUID, int]]
    """By user."""
    notified: Sequence[UUID]
    """The order of each notification."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence for every order that was lost or done twice, and for all money that is astray."""

    orders: int
    lost: Sequence[str]
    doubled: Sequence[str]
    money: Sequence[str]


def check(rows: Rows, accepted: Collection[UUID]) -> Verdict:
    """`accepted` are orders a customer was told of; all that are stored are judged."""
    money = [*_overdrawn(rows), *_unbalanced(rows), *_unlike_decided(rows)]
    return Verdict(len(rows.orders), [*_lost(rows, accepted)], [*_doubled(rows)], money)


def _lost(rows: Rows, accepted: Collection[UUID]) -> Iterator[str]:
    """One sentence for an order: the first step that is missing."""
    stored = {order.id for order in rows.orders}
    paid, notified = {order for order, _ in rows.payments}, set(rows.notified)
    for id in accepted:
        if id not in stored:
            yield f"order {id} was accepted and is not stored"
    for order in rows.orders:
        if order.id not in paid:
            yield f"order {order.id} is stored and nothing was decided about it"
        elif order.status not in ("confirmed", "rejected"):
            yield f"order {order.id} was decided and is still {order.status}"
        elif order.id not in notified:
            yield f"order {order.id} is {order.status} and has no notification"


def _doubled(rows: Rows) -> Iterator[str]:
    """One sentence for an order, however much of it was done twice."""
    twice: dict[str, Counter[UUID | None]] = {
        "decided": Counter(order for order, _ in rows.payments),
        "paid": Counter(leg.order for leg in rows.ledger if leg.kind == "payment" and leg.side == "customer"),
        "notified": Counter(rows.notified),
    }
    for order in rows.orders:
        told = [f"{what} {count[order.id]} times" for what, count in twice.items() if count[order.id] > 1]
        if told:
            yield f"order {order.id} was {', '.join(told)}"


def _overdrawn(rows: Rows) -> Iterator[str]:
    moved: Counter[UUID] = Counter()
    for leg in rows.ledger:
        if leg.side == "customer":
            moved[leg.user] += leg.amount
    for user, balance in rows.balances:
        if balance != moved[user]:
            yield f"account of {user} holds {balance}, and its ledger says {moved[user]}"
        if balance < 0:
            yield f"account of {user} is overdrawn: {balance}"


def _unbalanced(rows: Rows) -> Iterator[str]:
    sums: Counter[UUID] = Counter()
    for leg in rows.ledger:
        sums[leg.entry] += leg.amount
    for entry, total in sums.items():
        if total:
            yield f"entry {entry} does not sum to zero but to {total}"


def _unlike_decided(rows: Rows) -> Iterator[str]:
    """That it was paid twice is told as doubled; here is what each time must be."""
    outcomes = dict(rows.payments)
    gained: defaultdict[UUID | None, list[int]] = defaultdict(list)
    for leg in rows.ledger:
        if leg.kind == "payment" and leg.side == "shop":
            gained[leg.order].append(leg.amount)
    for order in rows.orders:
        outcome, got = outcomes.get(order.id), gained[order.id]
        if (outcome == "confirmed") != bool(got) or set(got) - {order.price}:
            yield f"order {order.id} of {order.price} is {outcome} and the shop got {got or 'nothing'}"
        elif outcome and order.status not in ("created", outcome):
            yield f"order {order.id} is {order.status} and its payment {outcome}"
