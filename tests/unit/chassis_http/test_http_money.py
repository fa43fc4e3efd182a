from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.chassis.http.body import Body, parse_json, validate
from choreo.chassis.http.money import Amount, decimal_text
from choreo.chassis.http.problems import Problem


class Priced(Body):
    price: Amount


def read(json: str) -> int:
    return validate(Priced, parse_json(b'{"price": %s}' % json.encode())).price


@pytest.mark.parametrize(
    ("written", "units"),
    [
        ("100", 10000),
        ('"100"', 10000),
        ("100.0", 10000),
        ('"100.00"', 10000),
        ("0.01", 1),
        ('"0.1"', 10),
        ("999999999.99", 99999999999),
        ("4.35", 435),  # 434.99999999999994 as a float
    ],
)
def test_legal_forms(written: str, units: int) -> None:
    assert read(written) == units


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("0", "at least"),
        ('"0.00"', "at least"),
        ("-1", "at least"),
        ("-0", "at least"),
        ('"100.000"', "two decimals"),
        ("0.001", "two decimals"),
        ("400.00000000000001", "two decimals"),
        ("1000000000", "at most"),
        ("1" + "0" * 30, "at most"),
        ("1" * 5000, "at most"),
        ("1e2", "exponent"),
        ("1E400", "exponent"),
        ('"4e2"', "exponent"),
        ('"0100"', "leading zeros"),
        ('"+1"', "digits"),
        ('" 1"', "digits"),
        ('"1 "', "digits"),
        ('"1\\n"', "digits"),
        ('"1_000"', "digits"),
        ('"1,50"', "digits"),
        ('"1."', "digits"),
        ('".5"', "digits"),
        ('""', "digits"),
        ('"abc"', "digits"),
        ('"NaN"', "digits"),
        ('"0x10"', "digits"),
        ('"\\u0661\\u0662"', "digits"),  # Arabic digits
        ('"\\uff11"', "digits"),  # a full-width one
        ("true", "string or a number"),
        ("null", "string or a number"),
        ("[1]", "string or a number"),
        ('{"units": 1}', "string or a number"),
    ],
)
def test_illegal_forms_say_why_and_not_what(written: str, reason: str) -> None:
    with pytest.raises(Problem) as refusal:
        read(written)
    (fault,) = refusal.value.errors
    assert refusal.value.status == 422
    assert (fault.kind, fault.place) == ("pointer", "#/price")
    assert reason in fault.detail


@given(st.integers(1, 99999999999), st.booleans())
def test_what_is_rendered_is_read_back(units: int, quoted: bool) -> None:
    text = decimal_text(units)
    assert read(f'"{text}"' if quoted else text) == units


@given(st.text() | st.from_regex(r"[0-9+\-_ .,eE]{1,14}", fullmatch=True))
def test_any_text_is_an_amount_in_range_or_refused(text: str) -> None:
    value: Any = {"price": text}
    try:
        units = validate(Priced, value).price
    except Problem as refusal:
        assert refusal.status == 422
    else:
        assert 1 <= units <= 99999999999
        assert text in {decimal_text(units), decimal_text(units)[:-1], decimal_text(units)[:-3]}


def test_rendering() -> None:
    assert [decimal_text(n) for n in (0, 5, 40000, -150)] == ["0.00", "0.05", "400.00", "-1.50"]
