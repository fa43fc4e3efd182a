import asyncio
import json
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from choreo.chassis.http.body import Body, Num, Whole, fingerprint, parse_form, parse_json, validate
from choreo.chassis.http.problems import Problem


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "\\u0061": 2}}',
        b'{"a": "\x00"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a": 01}',
        b'{"a": 1} {"a": 1}',
    ],
)
def test_malformed_json_is_a_400(raw: bytes) -> None:
    with pytest.raises(Problem) as refusal:
        parse_json(raw)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"1," * 30_000 + b"1]",
        b"[" + b"{}," * 20_000 + b"{}]",
        json.dumps({f"field{n}": 1 for n in range(4_000)}).encode(),
        b'{"name": ' + b"[[]" * 9_000,
    ],
    ids=["numbers", "objects", "fields", "lists"],
)
def test_a_body_of_many_parts_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    monkeypatch.setattr("choreo.chassis.http.body._decoder", None)
    with pytest.raises(Problem) as refusal:
        parse_json(raw)
    assert refusal.value.status == 400


def test_text_may_have_commas() -> None:
    text = "[{,}]" * 100
    assert parse_json(json.dumps({"description": text}).encode()) == {"description": text}


def test_numbers_arrive_as_they_were_written() -> None:
    assert parse_json(b"[1, 1.50, 1e400, -0]") == [Num("1"), Num("1.50"), Num("1e400"), Num("-0")]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/price"),
        ({"price": "1", "nam": "x"}, "#/nam"),
        ({"price": "1", "name": Num("5")}, "#/name"),
        ({"price": "1", "name": True}, "#/name"),
        ({"price": "1", "name": "x" * 21}, "#/name"),
        ({"price": "1", "name": "a\0b"}, "#/name"),
        ({"price": "1", "name": "\ud800"}, "#/name"),
        ({"price": "1", "n\0": "x"}, "#"),
        ({"price": "1", "\udfff": "x"}, "#"),
        ({"price": "1", "my secret/password": "x"}, "#"),
        ([], "#"),
        ("text", "#"),
        (None, "#"),
        (Num("1"), "#"),
        (["\0"], "#/0"),
    ],
)
def test_unacceptable_bodies_name_the_field(new_thing: Any, body: object, pointer: str) -> None:
    with pytest.raises(Problem) as refusal:
        validate(new_thing, body)
    assert refusal.value.status == 422
    assert [fault.place for fault in refusal.value.errors] == [pointer]


def test_a_refusal_tells_a_bounded_number_of_errors(new_thing: Any) -> None:
    for body in ({f"field{n}": "" for n in range(5000)}, ["\0"] * 5000):
        with pytest.raises(Problem) as refusal:
            validate(new_thing, body)
        assert len(json.loads(refusal.value.answer().body)["errors"]) == 20


@pytest.mark.parametrize(
    "raw",
    [
        b"&".join(b"f%d=1" % n for n in range(1_001)),
        b"a",
        b"a=1&a=2",
        b"a=%ff",
        b"a=%ED%A0%80",
        b"a=\xff",
        b"&",
        b"a=1&",
        b"a=1&&b=2",
    ],
)
def test_malformed_forms_are_a_400(raw: bytes) -> None:
    with pytest.raises(Problem) as refusal:
        parse_form(raw)
    assert refusal.value.status == 400


def test_forms_keep_blanks_and_decode_once() -> None:
    assert parse_form(b"a=&b=%2525+x&c=%C3%A9") == {"a": "", "b": "%25 x", "c": "é"}
    assert parse_form(b"") == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)
almost_things = st.fixed_dictionaries(
    {"price": json_values}, optional={"name": json_values, "password": json_values}
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(st.characters()).map(lambda text: json.dumps(text).encode())
    | almost_things.map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_whatever_are_our_fault(lasting_toy: Any, raw: bytes) -> None:
    toy = lasting_toy

    async def post(path: str, media_type: str) -> int:
        async with toy.client() as client:
            answer = await client.post(path, content=raw, headers=toy.headers | {"Content-Type": media_type})
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
            return int(answer.status_code)

    assert asyncio.run(post("/things", "application/json")) in {201, 400, 409, 422}
    assert asyncio.run(post("/login", "application/x-www-form-urlencoded")) in {200, 400, 422}


def test_a_fingerprint_is_of_the_meaning(new_thing: Any) -> None:
    def of(raw: bytes) -> bytes:
        return fingerprint(validate(new_thing, parse_json(raw)))

    same = {of(b'{"price": 100}'), of(b' {"name": null, "price": "100.0"}'), of(b'{"\\u0070rice": "100.00"}')}
    assert len(same) == 1
    assert of(b'{"price": 101}') not in same
    assert of(b'{"price": 100, "name": ""}') not in same
    assert len(fingerprint(None)) == 32


class Counted(Body):
    number: Annotated[Whole, Field(ge=1, le=10)]


@pytest.mark.parametrize("number", ["1", "10"])
def test_a_whole_number_is_one(number: str) -> None:
    assert validate(Counted, parse_json(f'{{"number": {number}}}'.encode())).number == int(number)


@pytest.mark.parametrize("number", ["0", "11", "1.0", "1e0", "-1", '"1"', "true", "null", "9" * 19])
def test_what_is_no_whole_number_within_its_bounds_is_refused(number: str) -> None:
    with pytest.raises(Problem) as refusal:
        validate(Counted, parse_json(f'{{"number": {number}}}'.encode()))
    assert refusal.value.status == 422
