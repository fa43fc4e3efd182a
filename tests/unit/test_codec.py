"""The codec: an event survives the way through Kafka, and nothing else gets through."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal, get_args, get_origin
from uuid import UUID, uuid5

import pytest
from annotated_types import Ge, Le, MaxLen, MinLen
from hypothesis import example
from hypothesis import given as forall
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from choreo.message.catalog import FACT_OF_TYPE, SOURCE_OF_TYPE
from choreo.message.codec import Headers, Record, Undecodable, UnknownType, decode, encode, uuid_of
from choreo.message.envelope import NAMESPACE, Event, derived_id
from choreo.message.fact import Fact
from choreo.message.upcast import UPCASTERS
from events import billing
from tests.services import FACTS
from tests.unit.facts import confirmed
from tests.unit.spec import START, event

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def limit(field: FieldInfo, kind: type[Any], name: str, otherwise: Any) -> Any:
    """That the field's type says of itself, or else this one."""
    return next((getattr(one, name) for one in field.metadata if isinstance(one, kind)), otherwise)


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(get_args(field.annotation))
    if field.annotation is int:
        return st.integers(limit(field, Ge, "ge", -(2**63)), limit(field, Le, "le", 2**63 - 1))
    if field.annotation is str:
        return st.text(
            min_size=limit(field, MinLen, "min_length", 0), max_size=limit(field, MaxLen, "max_length", None)
        )
    simple: dict[Any, st.SearchStrategy[Any]] = {
        UUID: st.uuids(),
        str | None: st.none() | st.text(),
        datetime: moments,
        dict[str, str]: st.dictionaries(st.text(), st.text()),
    }
    return simple[field.annotation]


def facts_of(fact: type[Fact]) -> st.SearchStrategy[Fact]:
    return st.builds(fact, **{name: values(field) for name, field in fact.model_fields.items()})


@st.composite
def events(draw: st.DrawFn) -> Event[Fact]:
    fact = draw(st.sampled_from(FACTS).flatmap(facts_of))
    return Event(
        id=draw(st.uuids()),
        source=SOURCE_OF_TYPE[type(fact).__name__],
        time=draw(moments),
        key=fact.key,
        sequence=draw(st.integers(0, 2**63 - 1)),
        correlation_id=draw(st.uuids()),
        causation_id=draw(st.none() | st.uuids()),
        trace_id=draw(st.uuids()).hex,
        data=fact,
    )


@forall(events())
def test_an_event_survives_the_way_and_back_byte_for_byte(event: Event[Fact]) -> None:
    record = encode(event)
    assert decode(record) == event
    assert encode(decode(record)) == record


def test_the_bytes_of_an_event() -> None:
    """They are in the log for ever: no release may write the same event otherwise."""
    event: Event[Fact] = Event(
        id=UUID(int=1),
        source="billing",
        time=datetime(2030, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        key=confirmed().key,
        sequence=7,
        correlation_id=UUID(int=2),
        causation_id=UUID(int=3),
        trace_id=UUID(int=4).hex,
        data=confirmed(amount=100_00, balance=300_00),
    )
    fact = confirmed()
    assert encode(event) == Record(
        key=str(fact.user_id).encode(),
        value=f'{{"payment_id":"{fact.payment_id}","order_id":"{fact.order_id}","user_id":"{fact.user_id}",'
        f'"amount":10000,"balance":30000}}'.encode(),
        headers=[
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_id", b"00000000-0000-0000-0000-000000000001"),
            ("ce_source", b"/billing"),
            ("ce_type", b"PaymentConfirmed"),
            ("ce_time", b"2030-01-01T00:00:00.000000Z"),
            ("ce_subject", str(fact.order_id).encode()),
            ("ce_dataschema", b"urn:choreo:PaymentConfirmed:1"),
            ("ce_partitionkey", str(fact.user_id).encode()),
            ("ce_sequence", b"00000000000000000007"),
            ("ce_correlationid", b"00000000-0000-0000-0000-000000000002"),
            ("ce_causationid", b"00000000-0000-0000-0000-000000000003"),
            ("traceparent", b"00-00000000000000000000000000000004-0000000000000000-01"),
        ],
    )


good = encode(event(confirmed(), number=1))


def with_header(name: str, value: bytes) -> Record:
    return replace(good, headers=[(n, value if n == name else v) for n, v in good.headers])


def with_data(**fields: object) -> Record:
    assert good.value is not None
    return replace(good, value=json.dumps(json.loads(good.value) | fields).encode())


@pytest.mark.parametrize("name", [name for name, _ in good.headers])
def test_a_missing_header_is_named(name: str) -> None:
    headers = [(n, v) for n, v in good.headers if n != name]
    with pytest.raises(Undecodable, match=f"^the header {name} is missing$"):
        decode(replace(good, headers=headers))


def test_only_a_root_has_no_causation_id() -> None:
    assert "ce_causationid" not in dict(good.headers)
    headers: Headers = [*good.headers, ("ce_causationid", b"nobody")]
    with pytest.raises(Undecodable, match="ce_causationid is not a UUID"):
        decode(replace(good, headers=headers))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ce_id", b"7", "ce_id is not a UUID"),
        ("ce_correlationid", b"", "ce_correlationid is not a UUID"),
        ("ce_time", b"yesterday", "ce_time is not an RFC 3339 time"),
        ("ce_time", b"2030-01-01T00:00:00", "ce_time is not an RFC 3339 time with a time zone"),
        ("ce_time", b"0001-01-01T00:00:00+23:00", "ce_time is not an RFC 3339 time"),
        ("ce_sequence", b"one", "ce_sequence is not a number of 20 digits"),
        ("ce_sequence", b"-0000000000000000001", "ce_sequence is not a number of 20 digits"),
        ("ce_sequence", b"99999999999999999999", r"ce_sequence is not a number of 20 digits below 2\^63"),
        ("traceparent", b"00", "traceparent is not"),
        ("traceparent", b"00-XYZ-0000000000000000-01", "traceparent is not"),
        ("ce_specversion", b"0.3", "ce_specversion of this PaymentConfirmed is not '1.0'"),
        ("content-type", b"text/xml", "content-type of this PaymentConfirmed is not 'application/json'"),
        ("ce_source", b"/order", "ce_source of this PaymentConfirmed is not '/billing'"),
        ("ce_source", b"billing", "ce_source of this PaymentConfirmed is not '/billing'"),
        ("ce_subject", b"somebody", "ce_subject of this PaymentConfirmed is not"),
        ("ce_partitionkey", b"somebody", "the key of this PaymentConfirmed is not the user_id of its data"),
        ("ce_dataschema", b"urn:choreo:OrderCreated:1", "ce_dataschema is not urn:choreo:PaymentConfirmed:"),
        ("ce_dataschema", b"urn:choreo:PaymentConfirmed:x", "ce_dataschema is not"),
        ("ce_dataschema", b"urn:choreo:PaymentConfirmed:2", "of version 2, and this program knows up to 1"),
        ("ce_dataschema", b"urn:choreo:PaymentConfirmed:0", "cannot be lifted from version 0"),
        ("ce_id", b"\xff", "ce_id is not UTF-8"),
        ("ce_type", b"\xff", "ce_type is not UTF-8"),
    ],
)
def test_a_malformed_header_is_named(name: str, value: bytes, sentence: str) -> None:
    with pytest.raises(Undecodable, match=sentence):
        decode(with_header(name, value))


def test_a_header_that_is_there_twice_is_named() -> None:
    with pytest.raises(Undecodable, match="ce_id is there twice"):
        decode(replace(good, headers=[*good.headers, ("ce_id", b"1")]))


def test_a_header_is_utf_8_by_itself() -> None:
    halves: Headers = [("ce_specversion", b"\xc3"), ("ce_causationid", b"\xa9")]
    others = [(name, value) for name, value in good.headers if name not in dict(halves)]
    with pytest.raises(Undecodable, match="ce_specversion is not UTF-8"):
        decode(replace(good, headers=[*others, *halves]))


def test_of_a_header_that_nobody_reads_nothing_is_asked() -> None:
    more: Headers = [("dd-pathway-ctx", b"\xff\0"), ("dd-pathway-ctx", None), ("", b"\xc3"), ("CE_ID", None)]
    assert decode(replace(good, headers=[*more, *good.headers])) == decode(good)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Record(b"a", b"b", []), Record(b"ab", b"", [])),
        (Record(None, b"", []), Record(b"", None, [])),
        (Record(b"", b"", [("a", b"b")]), Record(b"", b"", [("ab", b"")])),
        (Record(b"", b"", [("a", None)]), Record(b"", b"", [("a", b"")])),
        (Record(b"", b"", [("a", b""), ("b", b"")]), Record(b"", b"", [("b", b""), ("a", b"")])),
    ],
)
def test_a_digest_tells_records_apart(one: Record, other: Record) -> None:
    assert one.digest == replace(one).digest != other.digest


A_UUID = "7d1b1c0e-8f39-5d0a-9a53-0f6f2f6f5c11"


@forall(
    st.uuids().map(str)
    | st.text(max_size=40)
    | st.lists(
        st.sampled_from([*A_UUID, A_UUID, "{", "}", "urn:uuid:", "URN:", " ", "-", "_", "+", "٣"])
    ).map("".join)
)
@example(A_UUID.upper())
@example(A_UUID.replace("-", ""))
@example(f"{{{A_UUID}}}")
@example(f"urn:uuid:{A_UUID}")
@example(f"uuid:{A_UUID}")
@example(f"{A_UUID}\n")
@example(A_UUID.replace("-", "", 1) + "-")
@example(" 7" + A_UUID[2:].replace("-", ""))
def test_an_id_is_read_as_python_reads_it(text: str) -> None:
    try:
        expected = UUID(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"badly formed|invalid literal"):
            uuid_of(text)
    else:
        assert uuid_of(text) == expected


@forall(st.lists(st.text(st.characters(codec="utf-8")) | st.uuids() | st.integers()))
def test_a_derived_id_is_of_version_5_and_of_our_namespace(parts: list[object]) -> None:
    assert derived_id(*parts) == uuid5(NAMESPACE, "\x1f".join(map(str, parts)))


def test_a_header_without_a_value_is_named() -> None:
    """Kafka allows it, whatever its clients' types say."""
    nothing: Any = None
    with pytest.raises(Undecodable, match="ce_id has no value"):
        decode(with_header("ce_id", nothing))


@pytest.mark.parametrize("key", [None, b"", b"somebody", b"\xff"])
def test_the_kafka_key_is_the_datas(key: bytes | None) -> None:
    with pytest.raises(Undecodable, match="the key of this PaymentConfirmed is not the user_id of its data"):
        decode(replace(good, key=key))


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (with_data(amount=-1), "wrong at amount: .* greater than or equal to 1"),
        (with_data(amount=0), "wrong at amount"),
        (with_data(amount=10**30), "wrong at amount"),
        (with_data(amount="10000"), "wrong at amount: .* valid integer"),
        (with_data(amount=1.5), "wrong at amount"),
        (with_data(amount=True), "wrong at amount"),
        (with_data(balance=-1), "wrong at balance"),
        (with_data(order_id="7"), "wrong at order_id"),
        (with_data(order_id=None), "wrong at order_id"),
        (with_data(tip=1), "wrong at tip: Extra inputs"),
        (with_data(**{"x" * 2**20: 1}), "wrong at x{80}: Extra inputs"),
        (replace(good, value=b"{}"), "wrong at payment_id: Field required"),
        (replace(good, value=b"[]"), "wrong at the whole value"),
        (replace(good, value=b"no json"), "wrong at the whole value: Invalid JSON"),
        (replace(good, value=b'{"amount":"\xff"}'), "wrong at the whole value: Invalid JSON"),
        (replace(good, value=None), "wrong at the whole value: Invalid JSON"),
    ],
)
def test_wrong_data_is_named(record: Record, sentence: str) -> None:
    with pytest.raises(Undecodable, match=sentence):
        decode(record)


def test_an_unknown_type_is_no_fault_of_the_record() -> None:
    with pytest.raises(UnknownType, match="unknown event type 'OrderPraised'"):
        decode(with_header("ce_type", b"OrderPraised"))
    assert not issubclass(UnknownType, Undecodable)


garbage = st.binary(max_size=30) | st.sampled_from([value for _, value in good.headers])
names = st.sampled_from([name for name, _ in good.headers] + ["ce_causationid", "x"])


@forall(st.none() | garbage, st.none() | garbage, st.dictionaries(names, st.none() | garbage), st.booleans())
def test_whatever_comes_it_is_an_event_or_a_sentence(
    key: bytes | None, value: bytes | None, headers: dict[str, bytes | None], whole: bool
) -> None:
    pairs = list((dict(good.headers) | headers).items()) if whole else list(headers.items())
    try:
        decode(Record(key, value or good.value, pairs))
    except (Undecodable, UnknownType) as error:
        assert 0 < len(str(error)) < 400


def test_an_old_version_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    class PaymentConfirmed(billing.PaymentConfirmed):
        VERSION = 3
        tip: int

    monkeypatch.setitem(FACT_OF_TYPE, "PaymentConfirmed", PaymentConfirmed)
    with pytest.raises(Undecodable, match="cannot be lifted from version 1"):
        decode(good)
    monkeypatch.setitem(UPCASTERS, ("PaymentConfirmed", 1), lambda data: data | {"tips": [5]})
    monkeypatch.setitem(UPCASTERS, ("PaymentConfirmed", 2), lambda data: data | {"tip": data.pop("tips")[0]})
    assert decode(good).data.model_dump()["tip"] == 5
    for value in (b"[]", b"7", b"no json", None):
        with pytest.raises(Undecodable):
            decode(replace(good, value=value))


def test_time_is_told_in_utc() -> None:
    assert decode(with_header("ce_time", b"2030-01-01T01:00:00+01:00")).time == START
