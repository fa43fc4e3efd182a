"""Money: decimal text outside, an integer of minor units inside, and no float in between."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from choreo.chassis.environment import CHOSEN_NOW
from choreo.chassis.http.body import Num, refused

_FORM = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([0-9]{1,2}))?")
_RULE = "An amount is digits with at most two decimals, such as 12.50"
_REASONS = (
    (re.compile(r"-[0-9].*"), "An amount must be at least 0.01."),
    (re.compile(r"[0-9]+\.[0-9]{3,}"), "An amount has at most two decimals."),
    (re.compile(r"[1-9][0-9]{9,}(\.[0-9]{1,2})?"), "An amount is at most 999999999.99."),
    (re.compile(r"0[0-9]+(\.[0-9]*)?"), f"{_RULE}, without leading zeros."),
    (re.compile(r"[0-9.]+[eE][+-]?[0-9]+"), f"{_RULE}, without an exponent."),
)

_OTHER_DECIMALS = {
    "none": "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF "
    "XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX",
    "three": "BHD IQD JOD KWD LYD OMR TND",
    "four": "CLF UYW",
}
"""The codes of ISO 4217, List One, whose minor unit is not a hundredth, or which have none."""


def minor_units(value: object) -> int:
    """`Num("12.5")` or `"12.5"` → 1250. Only the plain ASCII form, from 0.01 to 999999999.99."""
    text = value.text if isinstance(value, Num) else value
    if not isinstance(text, str):
        raise refused("An amount is a string or a number.")
    form = _FORM.fullmatch(text)
    if form is None:
        raise refused(next((why for shape, why in _REASONS if shape.fullmatch(text)), f"{_RULE}."))
    whole, decimals = form.groups(default="")
    units = int(whole) * 100 + int(decimals.ljust(2, "0"))
    if units == 0:
        raise refused("An amount must be at least 0.01.")
    return units


def decimal_text(units: int) -> str:
    """40000 → `"400.00"`."""
    sign = "-" if units < 0 else ""
    return f"{sign}{abs(units) // 100}.{abs(units) % 100:02d}"


Amount = Annotated[
    int,
    PlainValidator(minor_units),
    WithJsonSchema(
        {
            "description": "From 0.01 to 999999999.99, written plainly, with at most two decimals.",
            "anyOf": [
                {"type": "string", "pattern": r"^(?!0(\.0{1,2})?$)(0|[1-9][0-9]{0,8})(\.[0-9]{1,2})?$"},
                {"type": "number", "minimum": 0.01, "maximum": 999999999.99, "multipleOf": 0.01},
            ],
            "examples": ["100.00"],
        }
    ),
]
"""Money coming in: a field of a request body. The model holds minor units."""

Money = Annotated[
    int,
    PlainSerializer(decimal_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?(0|[1-9][0-9]*)\.[0-9]{2}$", "examples": ["400.00"]}),
]
"""Money going out: a field of an answer, given as minor units and rendered with two places."""


def _has_two_decimals(code: str, told: ValidationInfo) -> str:
    """Refuses it where it is chosen now: what was recorded in another currency can still be read."""
    for count, codes in _OTHER_DECIMALS.items():
        if told.context == CHOSEN_NOW and code in codes.split():
            raise PydanticCustomError(
                "decimals",
                "amounts have two decimals, and {code} has {count} (ISO 4217)",
                {"code": code, "count": count},
            )
    return code


Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(_has_two_decimals)]
"""A setting of a service: the currency that its amounts are in."""
