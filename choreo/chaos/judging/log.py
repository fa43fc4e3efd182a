"""The topics as events: headers and JSON, read by the contract's table of facts alone."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from choreo.chaos.history import Record

_DATA: Mapping[str, Mapping[str, str]] = {
    "user": {
        "UserRegistered": "user_id login email",
        "SigningKeyPublished": "kid public_jwk not_after",
        "SessionsEnded": "user_id not_before",
    },
    "order": {
        "OrderCreated": "order_id user_id price description decide_by",
        "OrderCancelled": "order_id user_id reason",
    },
    "billing": {
        "AccountCreated": "account_id user_id currency",
        "MoneyDeposited": "entry_id user_id amount balance",
        "MoneyWithdrawn": "entry_id user_id amount balance",
        "PaymentConfirmed": "payment_id order_id user_id amount balance",
        "PaymentRejected": "order_id user_id amount reason balance",
        "PaymentRefunded": "payment_id order_id user_id amount balance",
    },
    "notification": {
        "NotificationSent": "notification_id user_id order_id kind channel",
        "NotificationFailed": "notification_id user_id order_id kind channel",
    },
}
"""Every fact there is, by the service that decides it: the fields of its data."""

SOURCE_OF = {type: service for service, types in _DATA.items() for type in types}
_FIELDS = {type: frozenset(fields.split()) for types in _DATA.values() for type, fields in types.items()}

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEQUENCE = re.compile("[0-9]{20}")
_TRACE = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Malformed(ValueError):
    """This record is no event; the message says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """The first record that carries this id."""

    record: Record
    id: str
    type: str
    source: str
    time: datetime
    key: str
    sequence: int
    flow: str
    trace: str
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For sentences."""
        return f"{self.type} {self.id}"


@dataclass(frozen=True)
class Log:
    """What the topics say. Records of a type nobody knows are in none of these."""

    events: Sequence[Event]
    """Each id once, per partition in the order of offsets."""
    repeats: Sequence[tuple[Event, Record]]
    """An event, and a later record that carries its id."""
    malformed: Sequence[tuple[Record, str]]
    """Records that are no events, and why."""

    def of(self, *types: str) -> list[Event]:
        """Those of these types; the events of one source and key in the order of `ce_sequence`."""
        return [event for event in self._in_sequence if event.type in types]

    @cached_property
    def _in_sequence(self) -> list[Event]:
        return sorted(self.events, key=lambda event: (event.source, event.key, event.sequence))


def read_log(records: Iterable[Record], ignored: Callable[[Record], bool]) -> Log:
    """`ignored`: records that a service found to be no events, and set aside for a person."""
    firsts: dict[str, Event] = {}
    repeats: list[tuple[Event, Record]] = []
    malformed: list[tuple[Record, str]] = []
    for record in records:
        try:
            event = read(record)
        except Malformed as error:
            malformed.append((record, str(error)))
            continue
        if event is None or ignored(record):
            continue
        if event.id in firsts:
            repeats.append((firsts[event.id], record))
        else:
            firsts[event.id] = event
    return Log(list(firsts.values()), repeats, malformed)


def read(record: Record) -> Event | None:
    """None for a type nobody knows. Raises `Malformed`."""
    try:
        headers = _headers(record)
        type = headers["ce_type"]
        if type not in _FIELDS:
            return None
        source = SOURCE_OF[type]
        data = _data(type, record.value)
        key: str = data["kid" if type == "SigningKeyPublished" else "user_id"]
        for name, expected in (
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_source", f"/{source}"),
            ("ce_dataschema", f"urn:choreo:{type}:1"),
            ("ce_partitionkey", key),
        ):
            if headers[name] != expected:
                raise Malformed(f"its {name} is not {expected}")
        if record.key != key.encode(errors="surrogatepass"):
            raise Malformed(f"its key is not {key}")
        if record.topic != f"{source}-events":
            raise Malformed(f"a {type} does not belong into {record.topic}")
        return Event(
            record=record,
            id=_matched(_ID, headers, "ce_id")[0],
            type=type,
            source=source,
            time=moment(headers["ce_time"]),
            key=key,
            sequence=int(_matched(_SEQUENCE, headers, "ce_sequence")[0]),
            flow=_matched(_ID, headers, "ce_correlationid")[0],
            trace=_matched(_TRACE, headers, "traceparent")[1],
            data=data,
        )
    except KeyError as missing:
        raise Malformed(f"it has no {missing.args[0]}") from None


def moment(text: str) -> datetime:
    """An RFC 3339 time. Raises `Malformed`."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Malformed("one of its times is none")


def place_of(record: Record) -> str:
    """For sentences."""
    return f"{record.topic}[{record.partition}] offset {record.offset}"


def _headers(record: Record) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in record.headers:
        if value is None or name in headers:
            raise Malformed(f"its header {name} has no value or is there twice")
        try:
            headers[name] = value.decode()
        except UnicodeDecodeError:
            raise Malformed(f"its header {name} is not UTF-8") from None
    return headers


def _data(type: str, value: bytes | None) -> dict[str, Any]:
    try:
        data = json.loads((value or b"").decode())
    except (ValueError, RecursionError):
        raise Malformed("its value is not JSON") from None
    if not isinstance(data, dict) or data.keys() != _FIELDS[type]:
        raise Malformed(f"its fields are not those of {type}")
    for name, field in data.items():
        if not _is_right(name, field):
            raise Malformed(f"its {name} is not what it should be")
    return data


def _is_right(name: str, value: object) -> bool:
    """A balance below zero is one all the same: that is for the judge to say."""
    match name:
        case "amount" | "price" | "balance":
            return type(value) is int and (value > 0 or name == "balance")
        case "public_jwk":
            return isinstance(value, dict)
        case "description" if value is None:
            return True
        case "decide_by" | "not_after" | "not_before":
            return isinstance(value, str) and moment(value) is not None
        case _ if name.endswith("_id"):
            return isinstance(value, str) and _ID.fullmatch(value) is not None
    return isinstance(value, str)


def _matched(pattern: "re.Pattern[str]", headers: Mapping[str, str], name: str) -> "re.Match[str]":
    match = pattern.fullmatch(headers[name])
    if match is None:
        raise Malformed(f"its {name} cannot be read")
    return match
