"""Rows of a table, written with one statement for a whole batch. Values travel as one array per column."""

from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from choreo.chassis.database.round_trip import RoundTrip, Statement

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def insert(trip: RoundTrip, table: Table, rows: Sequence[Any]) -> None:
    """Adds the rows, attributes into columns of the same name. What is there already is rejected (23505)."""
    _write(trip, table, rows, replace=False)


def replace(trip: RoundTrip, table: Table, rows: Sequence[Any]) -> None:
    """Writes rows over those with the same primary key. No two may have the same."""
    _write(trip, table, rows, replace=True)


def _write(trip: RoundTrip, table: Table, rows: Sequence[Any], replace: bool) -> None:
    if rows:
        statement, columns = _statement(table, replace)
        trip.add(statement, *(_values(column, rows) for column in columns))


@cache
def _statement(table: Table, replace: bool) -> tuple[Statement, tuple[Column[Any], ...]]:
    """Names are those of our own tables; nothing from outside gets into the text."""
    columns = tuple(column for column in table.columns if column.identity is None)
    names = ", ".join(_quoted(column) for column in columns)
    arrays = ", ".join(f"${number}::{array_type(column)}[]" for number, column in enumerate(columns, 1))
    values = ", ".join(
        f"{_quoted(column)}::jsonb" if isinstance(column.type, JSONB) else _quoted(column)
        for column in columns
    )
    statement = (
        f"/* write.{table.name} */ INSERT INTO {table.name} ({names}) "
        f"SELECT {values} FROM unnest({arrays}) AS new ({names})"
    )
    if replace:
        key = ", ".join(_quoted(column) for column in table.primary_key.columns)
        changes = ", ".join(
            f"{_quoted(column)} = excluded.{_quoted(column)}" for column in columns if not column.primary_key
        )
        statement += f" ON CONFLICT ({key}) DO UPDATE SET {changes}"
    return Statement(statement), columns


def _quoted(column: Column[Any]) -> str:
    """A column's name as SQL has it."""
    return f'"{column.name}"'


def array_type(column: Column[Any]) -> str:
    """What an array of this column's values is an array of."""
    return "text" if isinstance(column.type, JSONB) else str(column.type.compile(dialect=_DIALECT))


def _values(column: Column[Any], rows: Sequence[Any]) -> list[Any]:
    values = list(map(attrgetter(column.name), rows))
    if isinstance(column.type, JSONB):
        return [None if value is None else orjson.dumps(value).decode() for value in values]
    return values
