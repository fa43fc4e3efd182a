"""I2: every order has one outcome, and is refunded once where it was paid and cancelled.
I3: every outcome and every refund is told once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from choreo.chaos.judging.case import Case, names
from choreo.chaos.judging.fold import TOLD, notification_kind
from choreo.chaos.judging.log import Event, Log


def are_single(case: Case) -> Iterator[str]:
    orders = {event.data["order_id"]: event for event in case.log.of("OrderCreated")}
    for id, order in orders.items():
        outcomes = case.outcomes.get(id, [])
        if len(outcomes) > 1 or (not outcomes and order.key not in case.excepted):
            yield f"order {id} has {len(outcomes)} outcomes: {names(outcomes)}"
    for id, outcomes in case.outcomes.items():
        for outcome in outcomes:
            yield from _fits(outcome, orders.get(id))
    yield from _refunds_are_single(case.log)
    yield from _status_and_money_agree(case)


def _fits(outcome: Event, order: Event | None) -> Iterator[str]:
    """Whether this outcome can be this order's."""
    amount, balance = outcome.data["amount"], outcome.data["balance"]
    if order is None:
        yield f"{outcome.name} is about order {outcome.data['order_id']}, which nobody placed"
    elif (outcome.key, amount) != (order.key, order.data["price"]):
        yield (
            f"{outcome.name} is about {amount} of {outcome.key}, "
            f"and its order about {order.data['price']} of {order.key}"
        )
    if outcome.data.get("reason") == "insufficient_funds" and balance >= amount:
        yield f"{outcome.name} rejects {amount} for too little money, and there is {balance}"


def _refunds_are_single(log: Log) -> Iterator[str]:
    paid = {event.data["payment_id"] for event in log.of("PaymentConfirmed")}
    refunds = Counter(event.data["payment_id"] for event in log.of("PaymentRefunded"))
    for payment, count in refunds.items():
        if payment not in paid:
            yield f"payment {payment} is refunded, and was never made"
        if count > 1:
            yield f"payment {payment} is refunded {count} times"


def _status_and_money_agree(case: Case) -> Iterator[str]:
    """Of an order that was paid the money is back if and only if it is cancelled."""
    refunds = {event.data["order_id"]: event for event in case.log.of("PaymentRefunded")}
    cancels = {event.data["order_id"]: event for event in case.log.of("OrderCancelled")}
    for paid in case.log.of("PaymentConfirmed"):
        id = paid.data["order_id"]
        if id in cancels and id not in refunds and paid.key not in case.excepted:
            yield f"order {id} of {paid.key} is cancelled, was paid by {paid.name}, and is not refunded"
    for id, refund in refunds.items():
        if id not in cancels:
            yield f"{refund.name} gives back the money for order {id}, which nobody cancelled"


def are_told_once(case: Case) -> Iterator[str]:
    due = {(event.data["order_id"], notification_kind(event)): event.key for event in case.log.of(*TOLD)}
    rows = case.rows("notification", "notifications")
    ends = case.log.of("NotificationSent", "NotificationFailed")
    for what, told in (
        ("notifications", Counter((row["order_id"], row["kind"]) for row in rows)),
        ("sent or failed", Counter((end.data["order_id"], end.data["kind"]) for end in ends)),
    ):
        for id, key in due.items():
            if told[id] > 1 or (not told[id] and key not in case.excepted):
                yield f"{what}, of kind {id[1]} about order {id[0]}: {told[id]} instead of 1"
        for id, count in told.items():
            if id not in due:
                yield f"{what}, of kind {id[1]} about order {id[0]}: {count} without such an outcome"
    users = {row["id"]: row["user_id"] for row in rows}
    yield from _were_mailed(ends, users, {message_id for message_id, _ in case.history.mails})
    yield from _mails_belong(case, {_message_id(id): user for id, user in users.items()})


def _were_mailed(ends: Iterable[Event], users: Mapping[str, str], mailed: set[str]) -> Iterator[str]:
    """`users`: of each notification there is."""
    for end in ends:
        id = end.data["notification_id"]
        if id not in users:
            yield f"{end.name} is about notification {id}, which is not there"
        elif end.type == "NotificationSent" and _message_id(id) not in mailed:
            yield f"notification {id} of {end.key} was sent, and there is no mail {_message_id(id)}"


def _mails_belong(case: Case, users: Mapping[str, str]) -> Iterator[str]:
    """`users`: to whom each Message-ID may go."""
    addresses = {event.key: event.data["email"].casefold() for event in case.log.of("UserRegistered")}
    for message_id, recipient in case.history.mails:
        if message_id not in users:
            yield f"mail {message_id} to {recipient} belongs to no notification"
        elif recipient.casefold() != addresses.get(users[message_id]):
            yield f"mail {message_id} is for {users[message_id]} and went to {recipient}"


def _message_id(notification: str) -> str:
    return f"<{notification}@choreo.invalid>"
