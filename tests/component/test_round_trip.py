"""Statements that are sent together, on the real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.waiting import Wait
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from choreo.chassis.database.connection import (
    Connection,
    Failure,
    failure_of,
    make_engine,
    raw_connection,
    session,
)
from choreo.chassis.database.round_trip import RoundTrip, Statement
from choreo.chassis.database.rows import insert, replace
from choreo.chassis.database.tables import timestamp
from choreo.embedded.postgres import Postgres
from tests.databases import Database, a_database
from tests.locks import held

MONDAY = datetime(2030, 1, 7, 9, 30, 15, 123456, tzinfo=UTC)
LONG_AGO, FAR_AHEAD = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

THINGS = Table(
    "things",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("content", JSONB),
    Column("at", timestamp()),
)

_PUT = Statement(
    "INSERT INTO keys (key, sequence) SELECT * FROM unnest($1::text[], $2::bigint[]) RETURNING key, sequence"
)
_GET = Statement("SELECT sequence FROM keys WHERE key = ANY($1::text[])")
_LOCK = Statement("SELECT key FROM keys WHERE key = ANY($1::text[]) FOR UPDATE")


@pytest.fixture
def database(postgres: Postgres, templates: dict[str, str]) -> Any:
    with a_database("billing", postgres, templates) as database:
        yield database


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Connection]:
    engine = make_engine(database.runtime_url)
    async with raw_connection(engine) as conn:
        yield conn
    await engine.dispose()


def there(database: Database) -> set[str]:
    return {key for (key,) in database.rows("SELECT key FROM keys")}


@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("uuid", [UUID(int=0), None, UUID(int=2**128 - 1)]),
        ("text", ["", "Straße 🐘", None, "a" * 100_000]),
        ("bigint", [-(2**63), 2**63 - 1, 0]),
        ("integer", [-(2**31), None, 2**31 - 1]),
        ("smallint", [-(2**15), 2**15 - 1]),
        ("boolean", [True, None, False]),
        ("bytea", [b"", b"\0\xff", None]),
        ("timestamp with time zone", [MONDAY, LONG_AGO, FAR_AHEAD, None]),
        ("varchar(20)", ["a", None]),
        ("numeric", [Decimal("0.10"), None, Decimal(10) ** 30]),
        ("date", [date(2030, 1, 7)]),
        ("double precision", [0.1, None]),
        ("uuid", [None, None]),
        ("bigint", []),
    ],
)
async def test_a_column_arrives_as_it_is(conn: Connection, type: str, values: list[Any]) -> None:
    statement = Statement(f"SELECT * FROM unnest($1::{type}[])")
    async with RoundTrip(conn) as trip:
        rows = trip.add(statement, values)
        alone = [trip.add(statement, [value]) for value in values]
    assert [value for (value,) in rows] == values
    assert alone == [[(value,)] for value in values]


@pytest.mark.parametrize("together", [1, 2, 3])
async def test_rows_arrive_as_they_are_however_many_are_written_at_once(
    database: Database, together: int
) -> None:
    written = [
        SimpleNamespace(name="a", content={"x": "Straße"}, at=None),
        SimpleNamespace(name="b", content=None, at=MONDAY),
        SimpleNamespace(name="c", content=[1, None], at=LONG_AGO),
    ]
    changed = [SimpleNamespace(**vars(row) | {"at": FAR_AHEAD}) for row in written]
    engine = make_engine(database.owner_url)
    async with raw_connection(engine) as conn:
        await conn.execute("CREATE TEMP TABLE things (name text PRIMARY KEY, content jsonb, at timestamptz)")
        for write, rows in ((insert, written), (replace, changed)):
            async with RoundTrip(conn) as trip:
                for at in range(0, len(rows), together):
                    write(trip, THINGS, rows[at : at + together])
            found = await conn.execute("SELECT name, content, at FROM things ORDER BY name")
            assert await found.fetchall() == [tuple(vars(row).values()) for row in rows]
    await engine.dispose()


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("uuid", "7d1b1c0e-8f39-5d0a-9a53-0f6f2f6f5c11"),
        ("text", 1),
        ("text", "\ud800"),
        ("bigint", 2**63),
        ("bytea", 1),
        ("timestamp with time zone", datetime(2030, 1, 7)),
    ],
)
async def test_a_value_of_another_type_is_not_sent(conn: Connection, type: str, value: object) -> None:
    statement = Statement(f"SELECT * FROM unnest($1::{type}[])")
    with pytest.raises((AttributeError, TypeError, OverflowError, UnicodeEncodeError)):
        RoundTrip(conn).add(statement, [value])


async def test_what_fails_ends_the_trip_and_the_session_goes_on(database: Database, conn: Connection) -> None:
    trip = RoundTrip(conn)
    for _ in range(2):
        trip.add(_PUT, ["ada", "ada"], [1, 2])
        trip.add(_PUT, ["eve"], [1])
        with pytest.raises(psycopg.errors.UniqueViolation):
            await trip.commit()
        await conn.rollback()
    assert there(database) == set()
    rows = trip.add(_PUT, ["ada"], [1])
    await trip.commit()
    assert rows == [("ada", 1)]
    assert there(database) == {"ada"}
    assert await (await conn.execute("SELECT sequence FROM keys")).fetchall() == [(1,)]


async def test_what_cannot_be_prepared_ends_the_trip_too(database: Database, conn: Connection) -> None:
    trip = RoundTrip(conn)
    trip.add(_PUT, ["ada"], [1])
    trip.add(Statement("SELECT * FROM nowhere WHERE key = ANY($1::text[])"), ["ada"])
    with pytest.raises(psycopg.errors.UndefinedTable):
        await trip.commit()
    await conn.rollback()
    assert there(database) == set()


async def test_what_a_column_has_become_ends_one_trip_and_is_known_to_the_next(
    database: Database, conn: Connection
) -> None:
    trip = RoundTrip(conn)
    trip.add(_PUT, ["ada"], [1])
    trip.add(_GET, ["ada"])
    await trip.commit()
    with psycopg.connect(**session(database.owner_url)) as owner:
        owner.execute("ALTER TABLE keys ALTER COLUMN sequence TYPE numeric")
    trip.add(_GET, ["ada"])
    with pytest.raises(psycopg.errors.FeatureNotSupported) as raised:
        await trip.send()
    assert failure_of(raised.value) is Failure.UNFIT
    await conn.rollback()
    rows = trip.add(_GET, ["ada"])
    await trip.send()
    assert rows == [(1,)]


async def test_the_drivers_own_statements_go_on_beside_a_trips(conn: Connection) -> None:
    """However often they are repeated, and whether they are committed or not."""
    trip = RoundTrip(conn)
    for _ in range(3):
        for _ in range(10):
            await conn.execute("SELECT key FROM keys WHERE key = %s", ["ada"])
        rows = trip.add(_GET, ["ada"])
        await trip.send()
        await conn.rollback()
    assert rows == []


async def test_a_statement_that_somebody_has_forgotten_is_no_fault_of_an_input(conn: Connection) -> None:
    trip = RoundTrip(conn)
    trip.add(_GET, ["ada"])
    await trip.commit()
    await conn.execute("DEALLOCATE ALL")
    trip.add(_GET, ["ada"])
    with pytest.raises(psycopg.errors.InvalidSqlStatementName) as raised:
        await trip.send()
    assert failure_of(raised.value) is Failure.AWAY


async def test_text_is_utf8_whatever_the_surroundings_say(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = make_engine(database.runtime_url)
    async with raw_connection(engine) as conn:
        trip = RoundTrip(conn)
        trip.add(_PUT, ["Straße"], [1])
        await trip.commit()
    await engine.dispose()
    monkeypatch.undo()
    assert there(database) == {"Straße"}


async def test_a_look_sees_what_was_committed_before_the_lock_was_given(
    database: Database, conn: Connection
) -> None:
    trip = RoundTrip(conn)
    trip.add(_PUT, ["ada"], [1])
    await trip.commit()
    async with held(database.owner_url, "UPDATE keys SET sequence = 2 WHERE key = %s", "ada") as other:
        trip.add(_LOCK, ["ada"])
        rows = trip.add(_GET, ["ada"])
        sent = asyncio.ensure_future(trip.send())
        await other.keeps_waiting(sessions=1)
        await other.conn.commit()
    await sent
    assert rows == [(2,)]


async def test_a_trip_may_be_large_both_ways(conn: Connection) -> None:
    """More than buffers hold: neither side waits for the other to read first."""
    echo = Statement("SELECT * FROM unnest($1::text[])")
    async with RoundTrip(conn) as trip:
        found = [trip.add(echo, ["x" * 10_000] * 200) for _ in range(10)]
    assert [len(rows) for rows in found] == [200] * 10


async def test_a_trip_that_is_given_up_leaves_no_answer_to_the_next(
    database: Database, conn: Connection
) -> None:
    trip = RoundTrip(conn)
    trip.add(_PUT, ["ada"], [1])
    await trip.commit()
    async with held(database.owner_url, "SELECT FROM keys FOR UPDATE") as other:
        trip.add(_LOCK, ["ada"])
        sent = asyncio.ensure_future(trip.send())
        await other.keeps_waiting(sessions=1)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
    await conn.rollback()
    rows = trip.add(_GET, ["ada"])
    await trip.send()
    assert rows == [(1,)]


async def test_a_session_that_is_ended_under_a_trip_says_so(database: Database, conn: Connection) -> None:
    trip = RoundTrip(conn)
    trip.add(_PUT, ["ada"], [1])
    trip.add(
        Statement("SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS pid"),
        [conn.info.backend_pid],
    )
    trip.add(_PUT, ["eve"], [1])
    with pytest.raises(psycopg.errors.AdminShutdown) as raised:
        await trip.commit()
    assert failure_of(raised.value) is Failure.ENDED
    assert conn.broken
    assert there(database) == set()


async def test_what_is_prepared_is_planned_once(conn: Connection) -> None:
    for _ in range(3):
        async with RoundTrip(conn) as trip:
            trip.add(_GET, ["anybody"])
    planned = await conn.execute(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT%'"
    )
    assert await planned.fetchone() == (3, 0)


async def test_what_is_not_committed_is_undone_before_the_session_is_another_s(database: Database) -> None:
    engine = make_engine(database.runtime_url, pool_size=1)
    async with raw_connection(engine) as first, RoundTrip(first) as trip:
        trip.add(_PUT, ["ada"], [1])
    async with raw_connection(engine) as other:
        assert other is first
        assert other.pgconn.transaction_status == TransactionStatus.IDLE
    await engine.dispose()
    assert there(database) == set()


async def test_who_waits_is_not_woken_until_something_comes_or_the_time_is_up(conn: Connection) -> None:
    woken = 0

    def nothing_comes() -> Iterator[Wait]:
        nonlocal woken
        while True:
            yield Wait.R
            woken += 1

    with pytest.raises(psycopg.errors._WaitTimeout):
        await conn.wait(nothing_comes(), timeout=0.5)  # type: ignore[arg-type]
    assert woken == 1
