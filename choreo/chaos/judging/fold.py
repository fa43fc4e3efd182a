"""Every row of every service as it follows from the log: the judge's own small model of the shop.

It is written from the contract, in another way than the services: not event by event as they arrive, but
table by table from the whole log.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from unicodedata import normalize

from choreo.chaos.judging.log import Event, Log, moment

Id = tuple[Any, ...]
Rows = dict[Id, dict[str, Any]]

OUTCOMES = ("PaymentConfirmed", "PaymentRejected")
"""Of an order's payment: one of them, once."""

TOLD = (*OUTCOMES, "PaymentRefunded")
"""What a user gets a notification about."""

GAIN: Mapping[str, int] = {
    "MoneyDeposited": +1,
    "MoneyWithdrawn": -1,
    "PaymentConfirmed": -1,
    "PaymentRefunded": +1,
}
"""Facts that move money, and which way."""

_ENTRY_KIND = {
    "MoneyDeposited": "deposit",
    "MoneyWithdrawn": "withdrawal",
    "PaymentConfirmed": "payment",
    "PaymentRefunded": "refund",
}

Steps = Mapping[tuple[str, str], int]
"""By service and event id: the step under which it was applied there. Of heard events only journals know."""


@dataclass(frozen=True)
class Table:
    service: str
    name: str
    primary_key: tuple[str, ...]
    """What tells one row from another. Of a notification not its id: the log is to say which there are."""
    key: str
    """The column that holds the row's key."""
    fold: Callable[[Log, Steps], Rows]

    def id_of(self, row: Mapping[str, Any]) -> Id:
        return tuple(row.get(column) for column in self.primary_key)


def notification_kind(outcome: Event) -> str:
    """What the notification about an outcome or a refund is called."""
    match outcome.type:
        case "PaymentConfirmed":
            return "order_confirmed"
        case "PaymentRefunded":
            return "order_refunded"
    cancelled = outcome.data["reason"] == "order_cancelled"
    return "order_cancelled" if cancelled else "order_rejected"


def money(minor_units: int) -> str:
    """As people read it."""
    sign = "-" if minor_units < 0 else ""
    return f"{sign}{abs(minor_units) // 100}.{abs(minor_units) % 100:02}"


def _compared(name: str) -> str:
    return normalize("NFKC", normalize("NFKC", name).casefold())


def _users(log: Log, _: Steps) -> Rows:
    return {
        (event.key,): {
            "id": event.key,
            "login": event.data["login"],
            "login_key": _compared(event.data["login"]),
            "email": event.data["email"],
            "email_key": _compared(event.data["email"]),
            "created_at": event.time,
            "step": event.sequence,
        }
        for event in log.of("UserRegistered")
    }


def _signing_keys(log: Log, _: Steps) -> Rows:
    return {
        (event.key,): {
            "kid": event.key,
            "public_jwk": event.data["public_jwk"],
            "not_after": moment(event.data["not_after"]),
        }
        for event in log.of("SigningKeyPublished")
    }


def _sessions_ended(log: Log, _: Steps) -> Rows:
    """The latest of each user's."""
    ended = [
        {"user_id": event.key, "not_before": moment(event.data["not_before"])}
        for event in log.of("SessionsEnded")
    ]
    return {(row["user_id"],): row for row in sorted(ended, key=itemgetter("not_before"))}


def _orders(log: Log, _: Steps) -> Rows:
    about = _by_order(log.of(*OUTCOMES, "PaymentRefunded", "OrderCancelled"))
    return {
        (event.data["order_id"],): _order(event, about.get(event.data["order_id"], []))
        for event in log.of("OrderCreated")
    }


def _order(created: Event, about: list[Event]) -> dict[str, Any]:
    """Its status is a function of the set of facts about it."""
    facts = {event.type: event.data for event in about}
    payment = "undecided"
    if "PaymentConfirmed" in facts:
        payment = "confirmed"
    elif "PaymentRejected" in facts:
        payment = "rejected"
    rejection_reason = facts["PaymentRejected"]["reason"] if "PaymentRejected" in facts else None
    cancel_reason = facts["OrderCancelled"]["reason"] if "OrderCancelled" in facts else None
    refunded = "PaymentRefunded" in facts
    if refunded:
        status, reason = "refunded", cancel_reason
    elif cancel_reason is not None:
        status, reason = "cancelled", cancel_reason
    elif payment == "rejected":
        status, reason = "rejected", rejection_reason
    else:
        status, reason = "confirmed" if payment == "confirmed" else "created", None
    return {
        "id": created.data["order_id"],
        "user_id": created.key,
        "price": created.data["price"],
        "description": created.data["description"],
        "created_at": created.time,
        "updated_at": max(event.time for event in (created, *about)),
        "decide_by": moment(created.data["decide_by"]),
        "step": created.sequence,
        "event_id": created.id,
        "correlation_id": created.flow,
        "trace_id": created.trace,
        "payment": payment,
        "rejection_reason": rejection_reason,
        "cancel_reason": cancel_reason,
        "refunded": refunded,
        "status": status,
        "reason": reason,
    }


def _accounts(log: Log, _: Steps) -> Rows:
    rows: Rows = {
        (event.key,): {
            "user_id": event.key,
            "id": event.data["account_id"],
            "currency": event.data["currency"],
            "balance": 0,
            "created_at": event.time,
        }
        for event in log.of("AccountCreated")
    }
    for event in log.of(*GAIN):
        if (event.key,) in rows:
            rows[event.key,]["balance"] = event.data["balance"]
    return rows


def _payments(log: Log, steps: Steps) -> Rows:
    about = _by_order(log.of(*TOLD))
    rows: Rows = {}
    for event in log.of("OrderCreated"):
        decided = {fact.type for fact in about.get(event.data["order_id"], [])}
        rows[event.data["order_id"],] = {
            "order_id": event.data["order_id"],
            "user_id": event.key,
            "amount": event.data["price"],
            "outcome": "refunded"
            if "PaymentRefunded" in decided
            else "confirmed"
            if "PaymentConfirmed" in decided
            else "rejected"
            if "PaymentRejected" in decided
            else "waiting",
            "step": steps.get(("billing", event.id)),
            "event_id": event.id,
            "correlation_id": event.flow,
            "trace_id": event.trace,
        }
    return rows


def _ledger(log: Log, _: Steps) -> Rows:
    rows: Rows = {}
    for event in log.of(*GAIN):
        gain = GAIN[event.type] * event.data["amount"]
        other = "shop" if "order_id" in event.data else "world"
        for side, amount in (("customer", gain), (other, -gain)):
            rows[event.id, side] = {
                "entry_id": event.id,
                "side": side,
                "user_id": event.key,
                "kind": _ENTRY_KIND[event.type],
                "amount": amount,
                "balance": event.data["balance"],
                "order_id": event.data.get("order_id"),
                "at": event.time,
                "step": event.sequence,
            }
    return rows


def _recipients(log: Log, _: Steps) -> Rows:
    return {
        (event.key,): {
            "user_id": event.key,
            "login": event.data["login"],
            "email": event.data["email"],
        }
        for event in log.of("UserRegistered")
    }


def _notifications(log: Log, steps: Steps) -> Rows:
    told = {
        (event.data["order_id"], event.data["kind"]): event
        for event in log.of("NotificationFailed", "NotificationSent")
    }
    rows: Rows = {}
    for event in log.of(*TOLD):
        id = event.data["order_id"], notification_kind(event)
        end = told.get(id)
        sent = end is not None and end.type == "NotificationSent"
        rows[id] = {
            "user_id": event.key,
            "order_id": event.data["order_id"],
            "kind": notification_kind(event),
            "channel": "email",
            "status": "pending" if end is None else "sent" if sent else "failed",
            "created_at": event.time,
            "sent_at": end.time if end is not None and sent else None,
            "step": steps.get(("notification", event.id)),
            "event_id": event.id,
            "correlation_id": event.flow,
            "trace_id": event.trace,
        }
    return rows


def _by_order(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.data["order_id"], []).append(event)
    return found


TABLES = (
    Table("user", "users", ("id",), "id", _users),
    Table("order", "orders", ("id",), "user_id", _orders),
    Table("billing", "accounts", ("user_id",), "user_id", _accounts),
    Table("billing", "payments", ("order_id",), "user_id", _payments),
    Table("billing", "ledger", ("entry_id", "side"), "user_id", _ledger),
    Table("notification", "recipients", ("user_id",), "user_id", _recipients),
    Table("notification", "notifications", ("order_id", "kind"), "user_id", _notifications),
    *(
        table
        for service in ("user", "order", "billing", "notification")
        for table in (
            Table(service, "signing_keys", ("kid",), "kid", _signing_keys),
            Table(service, "sessions_ended", ("user_id",), "user_id", _sessions_ended),
        )
    ),
)
