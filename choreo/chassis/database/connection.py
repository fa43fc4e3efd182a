"""Postgres as the kernel uses it: few statements, each for a whole batch.

Values travel as one binary array per column. (As a text array psycopg escapes element by element,
a hundred times slower.)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from operator import attrgetter
from typing import Any

import orjson
import psycopg
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def make_engine(url: str, *, pool_size: int = 5) -> AsyncEngine:
    """`url` as libpq has it. At most `pool_size` connections, opened as needed.

    A service finds its rows by key. On young tables the planner would scan instead, and a prepared
    statement would keep to that after they have grown.
    """
    _, _, rest = url.partition("://")
    return create_async_engine(
        f"postgresql+psycopg://{rest}",
        connect_args={"options": "-c enable_seqscan=off"},
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
    )


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """The driver's connection under SQLAlchemy's pool. What is not committed is rolled back."""
    async with engine.connect() as pooled:
        yield await _driver(pooled)


@asynccontextmanager
async def own_connection(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A driver's connection in autocommit whose session, with all it set and locked, ends with the block."""
    async with engine.connect() as pooled:
        try:
            driver = await _driver(pooled)
            await driver.set_autocommit(True)
            yield driver
        finally:
            await pooled.invalidate()


async def _driver(pooled: AsyncConnection) -> Connection:
    driver = (await pooled.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


def is_rejected_by_database(error: BaseException) -> bool:
    """Returns whether the database understood the data and rejected it (SQLSTATE classes 22 and 23)."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ("22", "23")


def is_database_away(error: BaseException) -> bool:
    """Returns whether the database could not be asked or did not answer; false for a fault of our own."""
    return isinstance(error, psycopg.Error | SQLAlchemyError | OSError | TimeoutError)


async def insert(conn: Connection, table: Table, rows: Sequence[Any]) -> None:
    """Adds the rows, attributes into columns of the same name. One that is there already is rejected (23505).

    Runs inside the caller's transaction.
    """
    await _write(conn, table, rows, replace=False)


async def replace(conn: Connection, table: Table, rows: Sequence[Any]) -> None:
    """Writes rows over those with the same primary key.

    Runs inside the caller's transaction. No two rows may have the same primary key.
    """
    await _write(conn, table, rows, replace=True)


async def _write(conn: Connection, table: Table, rows: Sequence[Any], replace: bool) -> None:
    if rows:
        statement, columns = _statement(table, replace)
        await conn.execute(statement, [_values(column, rows) for column in columns])


@cache
def _statement(table: Table, replace: bool) -> tuple[bytes, tuple[Column[Any], ...]]:
    """Names are those of our own tables; nothing from outside gets into the text."""
    columns = tuple(column for column in table.columns if column.identity is None)
    names = ", ".join(_quoted(column) for column in columns)
    arrays = ", ".join(f"%b::{array_type(column)}[]" for column in columns)
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
    return statement.encode(), columns


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
