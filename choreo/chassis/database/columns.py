"""Whole columns of values as Postgres' binary arrays, whose type is known.

The driver by itself would ask every list for the types of its elements, and put them and their lengths one
behind the other in Python.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import is_
from struct import Struct
from typing import Any

from psycopg import postgres
from psycopg.pq import Format

_length, _head, _empty = Struct(">i").pack, Struct(">5i").pack, Struct(">3i").pack
_NULL = _length(-1)
_WIDTHS = {
    "uuid": 16,
    "bigint": 8,
    "integer": 4,
    "smallint": 2,
    "boolean": 1,
    "timestamp with time zone": 8,
}
"""In bytes. Other types have values of any length."""
_ENCODERS: dict[str, Callable[[Any], bytes]] = {"text": str.encode, "bytea": bytes.__bytes__}
"""Where Python itself is quicker than the driver."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    oid: int
    array_oid: int
    encode: Callable[[Any], Any]
    """The driver's own, for what is not NULL. Raises what Python raises for a value of another type."""
    width: int | None

    def array(self, values: Sequence[Any]) -> bytes:
        if not values:
            return _empty(0, 0, self.oid)
        if any(map(is_, values, repeat(None))):
            return _head(1, 1, self.oid, len(values), 1) + self._with_nulls(values)
        parts = list(map(self.encode, values))
        head = _head(1, 0, self.oid, len(values), 1)
        if self.width is None:
            lengths = map(_length, map(len, parts))
            return head + b"".join(chain.from_iterable(zip(lengths, parts, strict=True)))
        length = _length(self.width)
        return head + length + length.join(parts)

    def _with_nulls(self, values: Sequence[Any]) -> bytes:
        parts = [None if value is None else self.encode(value) for value in values]
        return b"".join([_NULL if part is None else _length(len(part)) + part for part in parts])


def column_type(name: str) -> ColumnType:
    """By the name that Postgres has for it. Raises KeyError for one that the driver does not know."""
    info = postgres.types[name]
    encode = _ENCODERS.get(name) or postgres.adapters.get_dumper_by_oid(info.oid, Format.BINARY)(object).dump
    return ColumnType(info.oid, info.array_oid, encode, _WIDTHS.get(name))
