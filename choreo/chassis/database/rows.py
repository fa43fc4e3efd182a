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
        trip.add(statement, *columns(rows))


@cache
def _statement(table: Table, replace: bool) -> tuple[Statement, "_Columns"]:
    """Names are those of our own tables; nothing from outside gets into the text."""
    columns = tuple(column for column in table.columns if column.identity is None)
    names = ", ".join(_quoted(column) for column in columns)
    arrays = ", ".join(f"${number}::{array_type(column)}[]" for number, column in enumerate(columns, 1))
    values = ", ".join(
        f"{_quoted(column)}::jsonb" if isinstance(column.type, JSONB) else _quoted(column)
        for column in columns
    )
    row = ", ".join(
        f"${number}::jsonb" if isinstance(column.type, JSONB) else f"${number}"
        for number, column in enumerate(columns, 1)
    )
    into = f"/* write.{table.name} */ INSERT INTO {table.name} ({names})"
    unless = ""
    if replace:
        key = ", ".join(_quoted(column) for column in table.primary_key.columns)
        changes = ", ".join(
            f"{_quoted(column)} = excluded.{_quoted(column)}" for column in columns if not column.primary_key
        )
        unless = f" ON CONFLICT ({key}) DO UPDATE SET {changes}"
    statement = Statement(
        f"{into} SELECT {values} FROM unnest({arrays}) AS new ({names}){unless}",
        f"{into} VALUES ({row}){unless}",
    )
    return statement, _Columns(columns)


def _quoted(column: Column[Any]) -> str:
    """A column's name as SQL has it."""
    return f'"{column.name}"'


def array_type(column: Column[Any]) -> str:
    """What an array of this column's values is an array of."""
    return "text" if isinstance(column.type, JSONB) else str(column.type.compile(dialect=_DIALECT))


class _Columns:
    """Called with rows, it gives the values of each column."""

    def __init__(self, columns: Sequence[Column[Any]]) -> None:
        names = [column.name for column in columns]
        self._values_of = attrgetter(*names) if len(names) > 1 else lambda row: (getattr(row, names[0]),)
        self._json = [number for number, column in enumerate(columns) if isinstance(column.type, JSONB)]

    def __call__(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        columns: list[Sequence[Any]] = list(zip(*map(self._values_of, rows), strict=True))
        for number in self._json:
            columns[number] = [
                None if value is None else orjson.dumps(value).decode() for value in columns[number]
            ]
        return columns
