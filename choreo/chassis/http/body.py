"""Request bodies, read strictly: exactly what was sent, or a refusal that says why without repeating it.

Two steps, because the contract has other checks between them: `parse_json` and `parse_form` refuse
what is malformed (400), `validate` what is well formed but not acceptable (422).
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from choreo.chassis.http.problems import (
    MOST_ERRORS_TOLD,
    Fault,
    invalid,
    malformed,
    too_large,
    unsupported_media_type,
)

LIMIT = 64 * 1024
_MOST_DRAINED = 16 * LIMIT
MOST_PARTS = 1_000
"""A description has up to 500 commas, and a body that is nothing else costs a hundred times a request."""
JSON_TYPE = b"application/json"
FORM_TYPE = b"application/x-www-form-urlencoded"

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Body(BaseModel):
    """Base of every model of a request body. Fields are strings, `Amount`, `Whole`, booleans or bodies."""

    most_parts: ClassVar[int] = MOST_PARTS
    """Commas and opening brackets, those in text included."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


AnyBody = TypeVar("AnyBody", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Num:
    """A JSON number as it was written. No float ever stands between the client and an amount."""

    text: str


def _whole(value: object) -> object:
    """Of a number that is written as a whole one its value; anything else is left to be refused."""
    if isinstance(value, Num) and re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value.text):
        return int(value.text)
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number in a body; say its bounds with `Field`."""


class ClientGone(Exception):
    """The client left before its request was complete."""


def refused(detail: str) -> PydanticCustomError:
    """For validators: `raise refused("...")` shows this detail, so it must not repeat the input."""
    return PydanticCustomError("refused", "{detail}", {"detail": detail})


async def read(receive: Receive, headers: Headers) -> bytes:
    """The whole body, chunked or not; 413 if it is too large."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 9 or int(length) > LIMIT):
        await _drain(receive)
        raise too_large(LIMIT)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LIMIT:
            if more:
                await _drain(receive)
            raise too_large(LIMIT)
        if not more:
            return bytes(body)


async def _drain(receive: Receive) -> None:
    """Reads on, to a bound: a connection closed on a client that still sends is reset, the answer lost."""
    drained, more = 0, True
    while more and drained < _MOST_DRAINED:
        message = await receive()
        drained += len(message.get("body", b""))
        more = message.get("more_body", False)


def check_content_type(headers: Headers, expected: bytes) -> None:
    media_type, *parameters = headers.get(b"content-type", b"").lower().split(b";")
    charset = [parameter.strip() for parameter in parameters]
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    acceptable = media_type.strip() == expected and charset in ([], [b"charset=utf-8"], [b'charset="utf-8"'])
    if not acceptable or encoding != b"identity":
        raise unsupported_media_type(expected.decode())


def parse_json(raw: bytes, most_parts: int = MOST_PARTS) -> object:
    """JSON as in RFC 8259, and no more: no NaN, no second key of a name, no encoding but UTF-8."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > most_parts:
        raise malformed("malformed_body", f"The body has over {most_parts} commas and brackets.")
    try:
        return _decoder.decode(raw.decode())
    except UnicodeDecodeError:
        raise malformed("malformed_body", "The body is not UTF-8.") from None
    except RecursionError:
        raise malformed("malformed_body", "The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise malformed("malformed_body", f"The body is not JSON: see {place}.") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise malformed("malformed_body", "An object in the body has the same key twice.")
    return members


def _no_constant(_: str) -> NoReturn:
    raise malformed("malformed_body", "NaN and Infinity are not JSON.")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Num, parse_float=Num, parse_constant=_no_constant
)


def parse_form(raw: bytes) -> object:
    """A form as browsers and OAuth clients send it, with every field given once."""
    try:
        text = raw.decode()
        # No fields at all are a form, too.
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=MOST_PARTS,
        )
    except ValueError:
        raise malformed("malformed_body", "The body is not a form in UTF-8.") from None
    if len(dict(pairs)) != len(pairs):
        raise malformed("malformed_body", "A field of the form is given twice.")
    return dict(pairs)


def validate(model: type[AnyBody], value: object) -> AnyBody:
    """The parsed body as a model, or a 422 that names each unacceptable field."""
    faults = list(islice(_unstorable(value), MOST_ERRORS_TOLD))
    if not faults:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=False)
            told = details[:MOST_ERRORS_TOLD]
            faults = [Fault.at(_pointer(detail["loc"]), _say(detail)) for detail in told]
    raise invalid(*faults)


def _unstorable(value: object) -> Iterator[Fault]:
    """Text that no database column takes: NUL, and halves of surrogate pairs."""
    detail = "Text may not contain NUL or half a surrogate pair."
    todo: list[tuple[_Place | None, object]] = [(None, value)]
    while todo:
        place, part = todo.pop()
        if isinstance(part, str):
            if not _storable(part):
                yield Fault.at(_pointer(_steps(place)), detail)
        elif isinstance(part, dict):
            if not all(map(_storable, part)):
                yield Fault.at(_pointer(_steps(place)), detail)
            todo.extend(((place, key), member) for key, member in part.items())
        elif isinstance(part, list):
            todo.extend(((place, index), item) for index, item in enumerate(part))


_Place = tuple[Any, int | str]
"""Where we are: the place around it, and one step. Linked, so that deep bodies cost no more than flat."""


def _steps(place: _Place | None) -> list[int | str]:
    steps: list[int | str] = []
    while place is not None:
        place, step = place
        steps.append(step)
    return steps[::-1]


def _storable(text: str) -> bool:
    return "\0" not in text and (text.isascii() or not _HALF_PAIR.search(text))


_HALF_PAIR = re.compile("[\ud800-\udfff]")
_TELLABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _pointer(steps: Iterable[int | str]) -> str:
    """RFC 6901, as a fragment. Names that no field of ours could have are left out: they are input."""
    pointer = "#"
    for step in steps:
        if isinstance(step, str) and not _TELLABLE_NAME.fullmatch(step):
            break
        pointer += f"/{step}"
    return pointer


_OUR_WORDS = {
    "missing": "This field is required.",
    "extra_forbidden": "There is no such field here.",
    "model_type": "This must be an object.",
    "string_type": "This must be a string.",
    "bool_type": "This must be true or false.",
}
_THEIR_WORDS = {"refused", "string_too_short", "string_too_long", "list_type", "too_long", "literal_error"}
"""Errors whose own message is helpful and holds nothing of the input."""


def _say(error: ErrorDetails) -> str:
    if error["type"] in _OUR_WORDS:
        return _OUR_WORDS[error["type"]]
    if error["type"] in _THEIR_WORDS:
        return f"{error['msg']}." if not error["msg"].endswith(".") else error["msg"]
    if "email address" in error["msg"]:
        return "This is not a valid e-mail address."
    return "This value is not acceptable."


def fingerprint(body: BaseModel | None) -> bytes:
    """SHA-256 of what the body means: `100`, `"100.0"` and another order of keys are one and the same."""
    meaning = None if body is None else body.model_dump(mode="json")
    return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).digest()
