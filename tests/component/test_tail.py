"""A journal is followed to its end: each row once, however late the transaction of an earlier one commits."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from choreo.embedded.postgres import Postgres
from choreo.message.envelope import derived_id
from choreo.replay.trace.journals import open_session
from choreo.replay.trace.tail import Tail
from tests.databases import a_database
from tests.unit.spec import START

_WRITE = """INSERT INTO journal (id, key, step, kind, type, outcome, decided_at, code_version, answer_body)
SELECT id, 'ada', 1, 'command', 'Deposit', 'applied', %s, '', convert_to(repeat('x', 1500), 'UTF8')
FROM unnest(%b::uuid[]) AS id"""
_GIVE_UP = "UPDATE journal SET outcome = 'dropped', position = DEFAULT"
_BLOCKS = "SELECT max((ctid::text::point)[0])::int FROM journal WHERE id = ANY(%s)"
MANY = 3000
"""In more than one page."""


def ids(name: str, count: int) -> list[UUID]:
    return [derived_id(name, number) for number in range(count)]


async def write(conn: psycopg.AsyncConnection[Any], written: list[UUID], at: datetime = START) -> None:
    await conn.execute(_WRITE, [at, written])


async def looked(tail: Tail, url: str) -> list[UUID]:
    async with await open_session(url) as conn:
        return [row.id for row in await tail.look(conn)]


async def test_each_row_is_told_once_also_one_that_is_committed_late(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    first, late, last = (ids(name, 1) for name in ("first", "late", "last"))
    many = ids("many", MANY)
    with a_database("billing", postgres, templates) as database:
        tail, url = Tail(START), database.owner_url
        async with (
            await psycopg.AsyncConnection.connect(url, autocommit=True) as conn,
            await psycopg.AsyncConnection.connect(url) as slow,
        ):
            await write(conn, ids("earlier", 1), START - timedelta(seconds=1))
            await write(conn, first)
            assert await looked(tail, url) == first
            await write(slow, late)
            await write(conn, many)
            assert await looked(tail, url) == many
            await write(conn, last)
            assert await looked(tail, url) == last
            await slow.commit()
            assert await looked(tail, url) == late
            assert await looked(tail, url) == []
            await conn.execute(f"{_GIVE_UP} WHERE id = ANY(%s)", [last])
            assert await looked(tail, url) == last, "what was written anew is told again"
        assert await looked(Tail(START), url) == await looked(Tail(START), url)
        assert len(await looked(Tail(START), url)) == MANY + 3


async def test_what_was_written_long_ago_is_read_by_pieces(
    postgres: Postgres, templates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.replay.trace.tail._MOST", 30)
    many = ids("many", 100)
    with a_database("billing", postgres, templates) as database:
        async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as conn:
            await write(conn, many)
        tail, pieces = Tail(START), list[list[UUID]]()
        while not tail.is_at_the_end:
            pieces.append(await looked(tail, database.owner_url))
        assert len(pieces) > 1
        assert sorted(id for piece in pieces for id in piece) == sorted(many)


async def test_a_row_that_lies_where_another_was_deleted_is_told(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    """Postgres puts a new row wherever there is room in the file."""
    with a_database("billing", postgres, templates) as database:
        tail, url = Tail(START), database.owner_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            await write(conn, ids("many", MANY))
            await looked(tail, url)
            await conn.execute("DELETE FROM journal WHERE id = ANY(%s)", [ids("many", 100)])
            await conn.execute("VACUUM journal")
            await write(conn, ids("new", 100))
            (blocks,) = await (await conn.execute(_BLOCKS, [ids("new", 100)])).fetchone() or (None,)
        assert blocks < MANY / 4 / 2, "they lie at the beginning"
        assert await looked(tail, url) == ids("new", 100)


async def test_one_of_two_at_once_is_told_also_if_it_is_committed_after_a_later_one(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    """Both began after the last look."""
    with a_database("billing", postgres, templates) as database:
        tail, url = Tail(START), database.owner_url
        assert await looked(tail, url) == []
        async with (
            await psycopg.AsyncConnection.connect(url) as slow,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as conn,
        ):
            await write(slow, ids("slow", 1))
            await write(conn, ids("fast", 1))
            assert await looked(tail, url) == ids("fast", 1)
            assert await looked(tail, url) == []
            await slow.commit()
        assert await looked(tail, url) == ids("slow", 1)


async def test_what_was_given_up_is_told_to_whoever_begins_after_it_was_parked(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    given_up = ids("given up", 1)
    with a_database("billing", postgres, templates) as database:
        async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as conn:
            await write(conn, given_up)
            await conn.execute(_GIVE_UP)
        assert await looked(Tail(START + timedelta(seconds=1)), database.owner_url) == given_up


@pytest.mark.parametrize("count", [0, 3])
async def test_one_that_begins_later_tells_nothing_of_before(
    postgres: Postgres, templates: dict[str, str], count: int
) -> None:
    with a_database("billing", postgres, templates) as database:
        async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as conn:
            await write(conn, ids("earlier", count))
        assert await looked(Tail(START + timedelta(seconds=1)), database.owner_url) == []
