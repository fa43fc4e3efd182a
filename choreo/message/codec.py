"""Events as Kafka records and back: the CloudEvents 1.0 Kafka binding in binary mode."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from choreo.message.catalog import FACT_OF_TYPE, SOURCE_OF_TYPE
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.upcast import upcast

Headers = list[tuple[str, bytes | None]]
"""In their order; Kafka allows a name twice, and a name without a value."""

_READ = frozenset(
    {"content-type", "traceparent"}
    | {
        f"ce_{name}"
        for name in (
            *("specversion", "id", "source", "type", "time", "subject", "dataschema"),
            *("partitionkey", "sequence", "correlationid", "causationid"),
        )
    }
)
"""The headers an event is read from. Others are anybody's: tracing agents add them, of whatever bytes."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_read_uuid = TypeAdapter(UUID).validator.validate_python


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes of one Kafka record, without its place."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def digest(self) -> bytes:
        """Tells these bytes from all others."""
        parts = [self.key, self.value]
        for name, value in self.headers:
            parts += name.encode(), value
        told = b"".join([b"-" if part is None else b"%d:%b" % (len(part), part) for part in parts])
        return blake2b(told, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A record where it lies."""

    topic: str
    """Its whole name, prefix and all."""
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970."""
    appended: bool
    """Whether that is the broker's time of appending, or else the producer's."""
    record: Record
    fetched_from: int = -1
    """Where the reading went on that found it: no record lies between. -1: at its own offset."""

    @property
    def begin(self) -> int:
        """The offset after the record before it, as the log has it: a hole in the log is nobody's loss."""
        return self.offset if self.fetched_from < 0 else self.fetched_from

    @property
    def at(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Undecodable(ValueError):
    """These bytes are no event; the message says which part and why."""


class UnknownVersion(Undecodable):
    """An event of a version that this program does not know, or cannot lift: whoever wrote it can read it."""


class UnknownType(ValueError):
    """An event of a type this program has never heard of. Readers skip it and count it."""


def encode(event: Event[Fact]) -> Record:
    """The same event gives the same bytes."""
    return Record(
        key=event.key.encode(),
        value=value_of(event.data),
        headers=[(name, value.encode()) for name, value in headers_of(event).items()],
    )


def value_of(fact: Fact) -> bytes:
    """What `model_dump_json` gives, which decodes it first."""
    return fact.__pydantic_serializer__.to_json(fact)


def headers_of(event: Event[Fact]) -> dict[str, str]:
    """In their order."""
    id, type_ = str(event.id), event.type
    headers = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": f"/{event.source}",
        "ce_type": type_,
        "ce_time": _time_text(event.time),
        "ce_subject": event.data.subject,
        "ce_dataschema": f"urn:choreo:{type_}:{event.data.VERSION}",
        "ce_partitionkey": event.key,
        "ce_sequence": f"{event.sequence:020d}",
        "ce_correlationid": str(event.correlation_id),
    }
    if event.causation_id is not None:
        headers["ce_causationid"] = str(event.causation_id)
    headers["traceparent"] = f"00-{event.trace_id}-{event.id.hex[:16]}-01"
    return headers


@lru_cache(maxsize=4)
def _time_text(moment: datetime) -> str:
    """All that one transaction decides is decided at one moment."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def decode(record: Record) -> Event[Fact]:
    """Raises `UnknownType` for a type not in the catalogue, `Undecodable` for anything that is no event."""
    headers = _headers(record.headers)
    type_ = headers.get("ce_type")
    if type_ is None:
        raise Undecodable("the header ce_type is missing")
    if type_ not in FACT_OF_TYPE:
        raise UnknownType(f"unknown event type {type_[:80]!r}")
    try:
        data = _data(type_, headers["ce_dataschema"], record.value)
        key = data.key
        event = Event(
            id=_uuid(headers, "ce_id"),
            source=SOURCE_OF_TYPE[type_],
            time=_time(headers["ce_time"]),
            key=key,
            sequence=_sequence(headers["ce_sequence"]),
            correlation_id=_uuid(headers, "ce_correlationid"),
            causation_id=_uuid(headers, "ce_causationid") if "ce_causationid" in headers else None,
            trace_id=_trace_id(headers["traceparent"]),
            data=data,
        )
        if record.key != key.encode() or headers["ce_partitionkey"] != key:
            raise Undecodable(f"the key of this {type_} is not the {data.KEY} of its data")
        for name, expected in (
            ("ce_specversion", "1.0"),
            ("content-type", "application/json"),
            ("ce_source", f"/{event.source}"),
            ("ce_subject", data.subject),
        ):
            if headers[name] != expected:
                raise Undecodable(f"the header {name} of this {type_} is not {expected[:80]!r}")
    except KeyError as missing:
        raise Undecodable(f"the header {missing.args[0]} is missing") from None
    return event


def type_in(record: Record) -> bytes | None:
    """The type of the event it says it is, without a look at the rest."""
    for name, value in record.headers:
        if name == "ce_type":
            return value
    return None


def _headers(all_pairs: Headers) -> dict[str, str]:
    """Those that are read. Of others nothing is asked."""
    try:  # all at once; where something is wrong, or nobody's, one by one
        headers = {name: value.decode() for name, value in all_pairs if name in _READ}  # type: ignore[union-attr]
        if len(headers) == len(all_pairs):
            return headers
    except (AttributeError, ValueError):
        pass
    pairs = [pair for pair in all_pairs if pair[0] in _READ]
    headers = {}
    for name, value in pairs:
        if name in headers:
            raise Undecodable(f"the header {name[:80]} is there twice")
        if value is None:
            raise Undecodable(f"the header {name[:80]} has no value")
        try:
            headers[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Undecodable(f"the header {name[:80]} is not UTF-8") from None
    return headers


def _data(type_: str, dataschema: str, value: bytes | None) -> Fact:
    fact = FACT_OF_TYPE[type_]
    version = fact.VERSION
    if dataschema != f"urn:choreo:{type_}:{version}":
        version = _version(type_, dataschema, fact.VERSION)
    try:
        if version < fact.VERSION:
            old: dict[str, Any] = orjson.loads(value or b"")
            value = orjson.dumps(upcast(type_, version, old, to=fact.VERSION))
        return fact.model_validate_json(value or b"")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "/".join(map(str, first["loc"]))[:80] or "the whole value"
        raise Undecodable(f"the data of this {type_} is wrong at {place}: {first['msg']}") from None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UnknownVersion(f"the data of this {type_} cannot be lifted from version {version}") from None


def _version(type_: str, dataschema: str, known: int) -> int:
    prefix, _, version = dataschema.rpartition(":")
    if prefix != f"urn:choreo:{type_}" or not re.fullmatch("[0-9]{1,9}", version):
        raise Undecodable(f"ce_dataschema is not urn:choreo:{type_}:<version>")
    if int(version) > known:
        raise UnknownVersion(f"{type_} is of version {int(version)}, and this program knows up to {known}")
    return int(version)


def _uuid(headers: Mapping[str, str], name: str) -> UUID:
    try:
        return uuid_of(headers[name])
    except ValueError:
        raise Undecodable(f"the header {name} is not a UUID") from None


@lru_cache(maxsize=1 << 12)
def uuid_of(text: str) -> UUID:
    """As `UUID(text)`, and faster for those as everybody writes them. Raises ValueError.

    Each id is read several times: what follows from an event names it, and so does its whole flow.
    """
    try:
        found: UUID = _read_uuid(text)
        return found
    except ValueError:
        return UUID(text)


def _sequence(text: str) -> int:
    if len(text) != 20 or not (text.isascii() and text.isdigit()) or (number := int(text)) >= 2**63:
        raise Undecodable("the header ce_sequence is not a number of 20 digits below 2^63")
    return number


def _trace_id(traceparent: str) -> str:
    if not (match := _TRACEPARENT.fullmatch(traceparent)):
        raise Undecodable("the header traceparent is not <version>-<trace-id>-<parent-id>-<flags>")
    return match[1]


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Undecodable("the header ce_time is not an RFC 3339 time with a time zone")
