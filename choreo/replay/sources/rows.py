"""Rows of a service, as its state has them and as its tables have them."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import blake2b
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Column, DateTime, Table, Uuid

from choreo.message.codec import uuid_of

_MODULUS = 2**128
_TO_THE_SECOND = len('"2030-01-31T09:00:00Z"')
_SHORT_TEXT = 16
"""Such words as `refunded` can be read; an id or a mail's text is a digest."""
_SHORT_BYTES = 3


def values(table: Table, row: Any) -> tuple[Any, ...]:
    """Returns the values of a state's row, in the order of its table's columns."""
    told: tuple[Any, ...] = _getter(table)(row)
    return told


@cache
def _getter(table: Table) -> Callable[[Any], Any]:
    first, second, *others = (str(column.name) for column in table.columns)  # of one alone it makes no tuple
    return attrgetter(first, second, *others)


def name_in(table: Table, row: Sequence[Any]) -> Any:
    """Returns the primary key, as `TableMapping.name_of` does, of a row in the order of the columns."""
    return _name_getter(table)(row)


@cache
def _name_getter(table: Table) -> Callable[[Sequence[Any]], Any]:
    return itemgetter(*(place for place, column in enumerate(table.columns) if column.primary_key))


def name_as_text(name: Any) -> str:
    """Writes a primary key as text; a composite one is `a,b`."""
    return ",".join(str(plain(part)) for part in (name if isinstance(name, tuple) else (name,)))


def plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return _time_as_text(value)
    return value


@lru_cache(maxsize=1 << 10)
def _time_as_text(moment: datetime) -> str:
    """All that one transaction decides is decided at one moment, and a row keeps some of it for long."""
    told = orjson.dumps(moment.astimezone(UTC), option=orjson.OPT_UTC_Z).decode()
    return told[1:-1] if len(told) > _TO_THE_SECOND else f"{told[1:-2]}.000000Z"


def pack(row: Sequence[Any]) -> bytes:
    """Writes values of columns on one line. Raises TypeError for one that is not JSON's, an id or a time."""
    return orjson.dumps([*row])


def unpacking(columns: Sequence[Column[Any]]) -> Callable[[bytes], list[Any]]:
    """Returns what reads values of these columns as `pack` has written them."""
    readers = [_reader(column) for column in columns]

    def unpack(told: bytes) -> list[Any]:
        return [
            value if read is None or value is None else read(value)
            for read, value in zip(readers, orjson.loads(told), strict=True)
        ]

    return unpack


def _reader(column: Column[Any]) -> Callable[[str], Any] | None:
    """Returns None where JSON has the value itself."""
    if isinstance(column.type, Uuid):
        return uuid_of
    return datetime.fromisoformat if isinstance(column.type, DateTime) else None


def canonical(row: Sequence[Any]) -> bytes:
    return orjson.dumps([*row], plain, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME)


def short(value: Any) -> Any:
    """Returns a value as JSON has it if that is short, and else a digest of it, which begins with a #."""
    told = plain(value)
    if told is None or isinstance(told, int) or (isinstance(told, str) and _is_short(told)):
        return told
    hashed = blake2b(orjson.dumps(told, option=orjson.OPT_SORT_KEYS), digest_size=_SHORT_BYTES)
    return f"#{b64encode(hashed.digest()).decode()}"


def _is_short(text: str) -> bool:
    return len(text) <= _SHORT_TEXT and not text.startswith("#")


class Digest:
    """Of a table's rows in any order: equal digests mean equal rows."""

    def __init__(self) -> None:
        self._sum, self._count = 0, 0

    def add(self, row: bytes) -> None:
        self._sum = (self._sum + int.from_bytes(blake2b(row, digest_size=16).digest())) % _MODULUS
        self._count += 1

    def __str__(self) -> str:
        return f"{self._count}:{self._sum:032x}"
