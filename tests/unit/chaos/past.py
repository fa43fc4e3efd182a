"""A history written by hand: what would lie in topics and tables had everything gone well.

It is made to be spoilt. Every list in it may be changed before `history` is taken.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from choreo.chaos.history import History, Kind, Place, Record, Request

START = datetime(2030, 1, 1, tzinfo=UTC)
PARTITIONS = 2
SERVICES = ("user", "order", "billing", "notification")
_READ_BY = {
    "user-events": ("order", "billing", "notification"),
    "order-events": ("billing",),
    "billing-events": ("order", "notification"),
    "notification-events": (),
}
_HEARD_BY = {
    "UserRegistered": ("billing", "notification"),
    "SigningKeyPublished": ("order", "billing", "notification"),
    "SessionsEnded": ("order", "billing", "notification"),
    "OrderCreated": ("billing",),
    "PaymentConfirmed": ("order", "notification"),
    "PaymentRejected": ("order", "notification"),
    "PaymentRefunded": ("order", "notification"),
    "OrderCancelled": ("billing",),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """A fact as it was published, and the steps under which others applied it."""

    id: str
    sequence: int
    time: datetime
    flow: str
    trace: str
    steps: dict[str, int]

    @property
    def origin(self) -> Row:
        """How a row says which event it follows from."""
        return {"event_id": self.id, "correlation_id": self.flow, "trace_id": self.trace}


class Past:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ends: Counter[Place] = Counter()
        self.tables: dict[str, dict[str, list[Row]]] = {service: {} for service in SERVICES}
        self.requests: list[Request] = []
        self.mails: list[tuple[str, str]] = []
        self._ids = 0
        for topic, readers in _READ_BY.items():
            for partition in range(PARTITIONS):
                self.ends[topic, partition] = 0
                for service in readers:
                    self.add(service, "positions", topic=topic, partition=partition, next_offset=0)
        self.signing_key("first")

    def history(self) -> History:
        return History(self.records, self.ends, self.tables, self.requests, self.mails)

    # -- what happens ----------------------------------------------------------------------------

    def signing_key(self, kid: str) -> None:
        end = START + timedelta(days=365)
        jwk = {"kty": "OKP", "kid": kid}
        self.publish("SigningKeyPublished", kid, kid=kid, public_jwk=jwk, not_after=end.isoformat())
        for service in SERVICES:
            self.add(service, "signing_keys", kid=kid, public_jwk=jwk, not_after=end)

    def end_sessions(self, user: str) -> None:
        ended = START + timedelta(seconds=len(self.records))
        self.publish("SessionsEnded", user, user_id=user, not_before=ended.isoformat())
        for service in SERVICES:
            kept = [row for row in self.tables[service].get("sessions_ended", []) if row["user_id"] != user]
            self.tables[service]["sessions_ended"] = kept
            self.add(service, "sessions_ended", user_id=user, not_before=ended)

    def register(self, login: str) -> str:
        """The user's id."""
        user, email = self.new_id(), f"{login}@Example.org"
        self.ask("register", login, user, 0, id=user)
        fact = self.publish("UserRegistered", user, user_id=user, login=login, email=email)
        names = {"login": login, "email": email}
        keys = {"login_key": login.casefold(), "email_key": email.casefold()}
        self.add("user", "users", id=user, created_at=fact.time, step=fact.sequence, **names, **keys)
        self.add("notification", "recipients", user_id=user, **names)
        account = self.new_id()
        fact = self.publish("AccountCreated", user, account_id=account, user_id=user, currency="EUR")
        row = {"user_id": user, "id": account, "currency": "EUR", "balance": 0}
        self.add("billing", "accounts", **row, created_at=fact.time)
        return user

    def deposit(self, user: str, amount: int) -> None:
        entry = self.new_id()
        self.ask("deposit", "", user, amount, id=entry)
        self.move("MoneyDeposited", user, "deposit", "world", amount, id=entry, entry_id=entry)

    def withdraw(self, user: str, amount: int) -> None:
        entry = self.new_id()
        self.move("MoneyWithdrawn", user, "withdrawal", "world", -amount, id=entry, entry_id=entry)

    def order(self, user: str, price: int, description: str | None = None) -> str:
        """Placed and decided, told and mailed; the order's id."""
        order = self.place(user, price, description)
        if self.balance(user) >= price:
            self.confirm(order)
        else:
            self.reject(order)
        return order

    def place(self, user: str, price: int, description: str | None = None) -> str:
        order, decide_by = self.new_id(), START + timedelta(hours=1)
        self.ask("order", order if description is None else description, user, price, id=order)
        fact = self.publish(
            "OrderCreated",
            user,
            order_id=order,
            user_id=user,
            price=price,
            description=description,
            decide_by=decide_by.isoformat(),
        )
        self.add(
            "order",
            "orders",
            id=order,
            user_id=user,
            price=price,
            description=description,
            created_at=fact.time,
            updated_at=fact.time,
            decide_by=decide_by,
            step=fact.sequence,
            **fact.origin,
            payment="undecided",
            rejection_reason=None,
            cancel_reason=None,
            refunded=False,
            status="created",
            reason=None,
        )
        names = {"order_id": order, "user_id": user, "amount": price, "outcome": "waiting"}
        self.add("billing", "payments", **names, step=fact.steps["billing"], **fact.origin)
        return order

    def confirm(self, order: str) -> None:
        row = self.row("order", "orders", id=order)
        user, price = row["user_id"], row["price"]
        fact = self.move(
            "PaymentConfirmed", user, "payment", "shop", -price, payment_id=self.new_id(), order_id=order
        )
        row |= {"payment": "confirmed", "status": "confirmed", "updated_at": fact.time}
        self.row("billing", "payments", order_id=order)["outcome"] = "confirmed"
        self.tell(order, "order_confirmed", fact)

    def reject(self, order: str, reason: str = "insufficient_funds") -> None:
        row = self.row("order", "orders", id=order)
        user, price = row["user_id"], row["price"]
        fact = self.publish(
            "PaymentRejected",
            user,
            order_id=order,
            user_id=user,
            amount=price,
            reason=reason,
            balance=self.balance(user),
        )
        row |= {"rejection_reason": reason, "updated_at": fact.time}
        if row["payment"] == "undecided":
            row |= {"payment": "rejected"}
            self.row("billing", "payments", order_id=order)["outcome"] = "rejected"
        if row["status"] == "created":
            row |= {"status": "rejected", "reason": reason}
        self.tell(order, "order_rejected" if reason == "insufficient_funds" else "order_cancelled", fact)

    def cancel(self, order: str, reason: str = "by_user") -> None:
        row = self.row("order", "orders", id=order)
        user = row["user_id"]
        if reason == "by_user":
            self.ask("cancel", order, user, 0, id=order)
        fact = self.publish("OrderCancelled", user, order_id=order, user_id=user, reason=reason)
        row |= {"cancel_reason": reason, "updated_at": fact.time, "reason": reason}
        row["status"] = "refunded" if row["refunded"] else "cancelled"

    def refund(self, order: str) -> None:
        row = self.row("order", "orders", id=order)
        user, price = row["user_id"], row["price"]
        payment = self.data(self.find("PaymentConfirmed", order_id=order))["payment_id"]
        fact = self.move("PaymentRefunded", user, "refund", "shop", price, payment_id=payment, order_id=order)
        row |= {"refunded": True, "status": "refunded", "reason": row["cancel_reason"]}
        row |= {"updated_at": fact.time}
        self.row("billing", "payments", order_id=order)["outcome"] = "refunded"
        self.tell(order, "order_refunded", fact)

    def move(
        self, type: str, user: str, kind: str, other: str, gain: int, *, id: str | None = None, **data: str
    ) -> Fact:
        """A fact that moves money, with its two legs and the new balance."""
        account = self.row("billing", "accounts", user_id=user)
        account["balance"] += gain
        balance = account["balance"]
        fact = self.publish(type, user, id=id, user_id=user, amount=abs(gain), balance=balance, **data)
        for side, amount in (("customer", gain), (other, -gain)):
            self.add(
                "billing",
                "ledger",
                entry_id=fact.id,
                side=side,
                user_id=user,
                kind=kind,
                amount=amount,
                balance=balance,
                order_id=data.get("order_id"),
                at=fact.time,
                step=fact.sequence,
            )
        return fact

    def tell(self, order: str, kind: str, fact: Fact) -> None:
        row = self.row("order", "orders", id=order)
        user, names = row["user_id"], {"order_id": order, "kind": kind, "channel": "email"}
        amount, balance = (f"{minor / 100:.2f}" for minor in (row["price"], self.balance(user)))
        notification = self.new_id()
        self.add(
            "notification",
            "notifications",
            id=notification,
            user_id=user,
            subject=f"Your order for {amount}",
            text=f"Order {order} for {amount}, and you have {balance}.",
            status="pending",
            created_at=fact.time,
            sent_at=None,
            step=fact.steps["notification"],
            **names,
            **fact.origin,
        )
        self.mail(notification)

    def mail(self, notification: str, *, delivered: bool = True) -> None:
        row = self.row("notification", "notifications", id=notification)
        user = row["user_id"]
        names = {name: row[name] for name in ("order_id", "kind", "channel")}
        type = "NotificationSent" if delivered else "NotificationFailed"
        fact = self.publish(type, user, notification_id=notification, user_id=user, **names)
        row |= {"status": "sent", "sent_at": fact.time} if delivered else {"status": "failed"}
        if delivered:
            email = self.row("notification", "recipients", user_id=user)["email"]
            self.mails.append((f"<{notification}@choreo.invalid>", email))

    # -- how it is kept --------------------------------------------------------------------------

    def publish(self, type: str, key: str, *, id: str | None = None, **data: Any) -> Fact:
        """Decided, published, and applied by all who hear it."""
        self._ids += 1
        time = START + timedelta(seconds=self._ids)
        id, flow = id or self.new_id(), self.new_id()
        source = _source_of(type)
        sequence = self.next_step(source, key)
        headers = {
            "content-type": "application/json",
            "ce_specversion": "1.0",
            "ce_id": id,
            "ce_source": f"/{source}",
            "ce_type": type,
            "ce_time": time.isoformat(),
            "ce_subject": key,
            "ce_dataschema": f"urn:choreo:{type}:1",
            "ce_partitionkey": key,
            "ce_sequence": f"{sequence:020}",
            "ce_correlationid": flow,
            "traceparent": f"00-{UUID(flow).hex}-{UUID(id).hex[:16]}-01",
        }
        pairs = tuple((name, value.encode()) for name, value in headers.items())
        value = json.dumps(data).encode()
        record = self.append(Record(f"{source}-events", _partition_of(key), 0, key.encode(), value, pairs))
        steps = {service: self.apply(service, id, key, type, record) for service in _HEARD_BY.get(type, ())}
        return Fact(id, sequence, time, flow, UUID(flow).hex, steps)

    def append(self, record: Record) -> Record:
        """At the end of its partition, and read by everybody."""
        place = record.topic, record.partition
        record = replace(record, offset=self.ends[place])
        self.records.append(record)
        self.ends[place] += 1
        for service in _READ_BY[record.topic]:
            position = self.row(service, "positions", topic=record.topic, partition=record.partition)
            position["next_offset"] = self.ends[place]
        return record

    def apply(self, service: str, id: str, key: str, type: str, record: Record) -> int:
        """Its step there."""
        step = self.next_step(service, key)
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        names = {"id": id, "key": key, "type": type, "kind": "fact", "outcome": "applied"}
        self.add(service, "journal", step=step, **names, **place)
        return step

    def next_step(self, service: str, key: str) -> int:
        rows = [row for row in self.tables[service].get("keys", []) if row["key"] == key]
        row = rows[0] if rows else self.add(service, "keys", key=key, sequence=0)
        row["sequence"] += 1
        return int(row["sequence"])

    def ask(self, kind: Kind, marker: str, user: str, amount: int, id: str) -> None:
        self.requests.append(Request(kind, marker, user, amount, 0.0, 1.0, "ok", 201, id, 1))

    def new_id(self) -> str:
        self._ids += 1
        return str(UUID(int=self._ids << 64))

    # -- how it is looked at and spoilt ----------------------------------------------------------

    def balance(self, user: str) -> int:
        return int(self.row("billing", "accounts", user_id=user)["balance"])

    def add(self, service: str, table: str, **columns: Any) -> Row:
        self.tables[service].setdefault(table, []).append(columns)
        return columns

    def row(self, service: str, table: str, **columns: Any) -> Row:
        """The only one with these values."""
        (row,) = [row for row in self.tables[service][table] if columns.items() <= row.items()]
        return row

    def remove(self, service: str, table: str, **columns: Any) -> Row:
        row = self.row(service, table, **columns)
        self.tables[service][table].remove(row)
        return row

    def find(self, type: str, **data: Any) -> Record:
        """The only record of this type with these values."""
        (record,) = [
            record
            for record in self.records
            if header(record, "ce_type") == type and data.items() <= self.data(record).items()
        ]
        return record

    def data(self, record: Record) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(record.value or b"")
        return found

    def put(self, old: Record, new: Record) -> None:
        """In its place."""
        self.records[self.records.index(old)] = new

    def park(self, service: str, record: Record, *, key: str, type: str | None) -> None:
        """As if this service had not been able to apply it."""
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        self.add(service, "parked", id=self.new_id(), key=key, type=type, reason="handler", **place)


def header(record: Record, name: str) -> str:
    return (dict(record.headers)[name] or b"").decode()


def with_header(record: Record, name: str, value: str) -> Record:
    headers = dict(record.headers) | {name: value.encode()}
    return replace(record, headers=tuple(headers.items()))


def with_data(record: Record, **data: Any) -> Record:
    return replace(record, value=json.dumps(json.loads(record.value or b"") | data).encode())


def _source_of(type: str) -> str:
    if type in ("UserRegistered", "SigningKeyPublished", "SessionsEnded"):
        return "user"
    return {"Or": "order", "No": "notification"}.get(type[:2], "billing")


def _partition_of(key: str) -> int:
    return sum(key.encode()) % PARTITIONS
