"""Rows of a service, as its state has them and as its tables have them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Table

_MODULUS = 2**128


def values(table: Table, row: Any) -> tuple[Any, ...]:
    """A row of a state, in the order of its table's columns."""
    return tuple(getattr(row, column.name) for column in table.columns)


def plain(value: Any) -> Any:
    """As JSON has it."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value


def canonical(row: Sequence[Any]) -> bytes:
    return orjson.dumps([plain(value) for value in row], option=orjson.OPT_SORT_KEYS)


class Digest:
    """Of a table's rows in any order: equal digests mean equal rows."""

    def __init__(self) -> None:
        self._sum, self._count = 0, 0

    def add(self, row: bytes) -> None:
        self._sum = (self._sum + int.from_bytes(blake2b(row, digest_size=16).digest())) % _MODULUS
        self._count += 1

    def __str__(self) -> str:
        return f"{self._count}:{self._sum:032x}"
