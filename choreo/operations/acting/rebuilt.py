"""The schema `rebuilt`: a copy of a service's rows beside the live ones, compared with them, and put into
their place.

Copy and comparison are one transaction, of one snapshot: what is killed leaves nothing. Rows are replaced key
by key, under the very lock the service takes before it does anything to a key.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB

from choreo.chassis.database.connection import Connection, session
from choreo.chassis.database.round_trip import RoundTrip
from choreo.chassis.database.rows import array_type
from choreo.chassis.transaction import keys, outbox, positions
from choreo.chassis.transaction.positions import TopicPartition
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.codec import Record
from choreo.replay.rebuild.rebuild import STEP, Copy, DatabaseSnapshot, Topics
from choreo.replay.verify.findings import Finding

SCHEMA = "rebuilt"
_CONNECT_WITHIN = 10
_LOCK_WITHIN = "2s"
_TOLD = 1000
"""So many differences are told; all are counted."""
_AT_ONCE = 1000

_ALONE = """/* rebuilt.alone: until this session ends */
SELECT pg_try_advisory_lock(hashtext('choreo_rebuild'))"""

_SEQUENCES = """/* rebuilt.sequences */
SELECT key, sequence FROM keys WHERE sequence > 0 AND (%(keys)b::text[] IS NULL OR key = ANY(%(keys)b))"""

_UNPUBLISHED = """/* rebuilt.unpublished */
SELECT event_id, key, partition, value, headers, decided_at FROM outbox
WHERE %(keys)b::text[] IS NULL OR key = ANY(%(keys)b) ORDER BY position"""

_LEFT_OUT = """/* rebuilt.left_out: heard and not applied */
SELECT id FROM journal WHERE outcome IN ('parked', 'dropped')
AND (%(keys)b::text[] IS NULL OR key = ANY(%(keys)b))"""

_MAKE = """CREATE TABLE {schema}.{table} (LIKE public.{table} INCLUDING ALL)"""

_COPY = """COPY rebuilt.{table} ({columns}) FROM STDIN"""

_ADOPT = """/* rebuilt.adopt: of the steps a row can have had, the one that the live row has */
UPDATE rebuilt.{table} AS made SET {step} = live.{step}
FROM public.{table} AS live, unnest(%b::{name_type}[], %b::bigint[], %b::bigint[])
    AS guess (name, earliest, latest)
WHERE made.{name} = guess.name AND live.{name} = guess.name
    AND live.{step} BETWEEN guess.earliest AND guess.latest"""

_DIFFERENCES = """/* rebuilt.differences: row by row */
SELECT coalesce(live.{key}, made.{key})::text, to_jsonb(live), to_jsonb(made)
FROM public.{table} AS live FULL JOIN rebuilt.{table} AS made ON {same}
WHERE live IS DISTINCT FROM made AND NOT coalesce(live.{key}, made.{key})::text = ANY(%b::text[])"""

_FORGET = (
    """/* rebuilt.forget: they are made anew */ DELETE FROM rebuilt.{table} WHERE {key} = ANY(%b::{type}[])"""
)

_TAKE_OUT = """/* rebuilt.take_out: live rows that are not the rebuilt ones, kept aside */
WITH gone AS (
    DELETE FROM public.{table} AS live WHERE {key} = ANY(%b::{type}[])
    AND NOT EXISTS (SELECT FROM rebuilt.{table} AS made WHERE {same} AND made IS NOT DISTINCT FROM live)
    RETURNING live.*
) INSERT INTO {kept}.{table} SELECT * FROM gone"""

_PUT_IN = """/* rebuilt.put_in */
INSERT INTO public.{table} SELECT made.* FROM rebuilt.{table} AS made WHERE {key} = ANY(%b::{type}[])
AND NOT EXISTS (SELECT FROM public.{table} AS live WHERE {same})"""


class Busy(Exception):
    """Another rebuild of this service is at work."""


@dataclass
class Differences:
    findings: list[Finding] = field(default_factory=list)
    """The first of them."""
    count: int = 0
    keys: set[str] = field(default_factory=set)
    """Whose rows they are."""


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Connection]:
    """As the owner of the tables. In autocommit."""
    async with await psycopg.AsyncConnection.connect(
        **session(url, connect_timeout=_CONNECT_WITHIN), autocommit=True
    ) as conn:
        set_json_loads(orjson.loads, conn)
        yield conn


async def read_snapshot(
    conn: Connection,
    topics: Topics,
    settled: Mapping[TopicPartition, int],
    keys: Collection[str] | None = None,
) -> DatabaseSnapshot:
    """Of these keys or of all."""
    wanted = {"keys": None if keys is None else list(keys)}
    unpublished: dict[int, list[Record]] = {}
    for row in await (await conn.execute(_UNPUBLISHED, wanted)).fetchall():
        fact = outbox.OutboxRow(*row)
        unpublished.setdefault(fact.partition, []).append(fact.record)
    known = await positions.read(conn, topics.heard)
    return DatabaseSnapshot(
        positions={position.place: position for position in known},
        sequences=dict(await (await conn.execute(_SEQUENCES, wanted)).fetchall()),
        unpublished=unpublished,
        left_out={id for (id,) in await (await conn.execute(_LEFT_OUT, wanted)).fetchall()},
        settled=settled,
    )


class Rebuilt:
    """The tables of a service in another schema. Every method runs in its caller's transaction."""

    def __init__(self, service: str, mappings: Sequence[TableMapping]) -> None:
        self._service = service
        self._mappings = mappings

    async def make(self, conn: Connection) -> None:
        """Empty, instead of what an earlier rebuild left. Raises `Busy`."""
        row = await (await conn.execute(_ALONE)).fetchone()
        if row != (True,):
            raise Busy(f"Another rebuild of {self._service} is at work: let it end first.")
        await conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
        await self._make(conn, SCHEMA)

    async def make_keep(self, conn: Connection, now: datetime) -> str:
        """A schema for what is about to be replaced; its name."""
        name = f"replaced_{now:%Y%m%d_%H%M%S_%f}"
        await self._make(conn, name)
        return name

    async def _make(self, conn: Connection, schema: str) -> None:
        await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for mapping in self._mappings:
            await conn.execute(_sql(_MAKE, mapping, schema))

    async def fill(self, conn: Connection, copy: Copy) -> None:
        async with conn.cursor() as cursor:
            for mapping in self._mappings:
                rows = copy.rows.get(str(mapping.table.name))
                if rows:
                    as_text = [isinstance(column.type, JSONB) for column in mapping.table.columns]
                    async with cursor.copy(_sql(_COPY, mapping)) as stream:
                        for row in rows:
                            await stream.write_row(_jsoned(row, as_text) if any(as_text) else row)
        for mapping in self._mappings:
            guesses = copy.guesses.get(str(mapping.table.name))
            if guesses:
                await conn.execute(_sql(_ADOPT, mapping), list(map(list, zip(*guesses, strict=True))))

    async def compare(self, conn: Connection, without: Collection[str]) -> Differences:
        """With the live tables, but for the rows of some keys."""
        found = Differences()
        for mapping in self._mappings:
            async with conn.cursor(f"differences_{mapping.table.name}") as cursor:
                await cursor.execute(_sql(_DIFFERENCES, mapping), [list(without)])
                while page := await cursor.fetchmany(_AT_ONCE):
                    for key, live, made in page:
                        found.count += 1
                        found.keys.add(key)
                        if len(found.findings) < _TOLD:
                            found.findings.append(_difference(self._service, mapping.table, key, live, made))
        return found

    async def lock(self, conn: Connection, names: Collection[str]) -> None:
        """From now on nothing else happens to these keys. Raises psycopg.errors.LockNotAvailable."""
        await conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_WITHIN}'".encode())
        async with RoundTrip(conn) as trip:
            keys.lock(trip, sorted(names))

    async def replace(self, conn: Connection, copy: Copy, names: Collection[str], kept: str) -> int:
        """Puts what the copy has of these keys in the place of what is live. How many rows that were."""
        for mapping in self._mappings:
            await conn.execute(_sql(_FORGET, mapping), [_keys(mapping, names)])
        await self.fill(conn, copy)
        changed = 0
        for mapping in self._mappings:
            gone = await conn.execute(_sql(_TAKE_OUT, mapping, kept), [_keys(mapping, names)])
            new = await conn.execute(_sql(_PUT_IN, mapping), [_keys(mapping, names)])
            changed += max(gone.rowcount, new.rowcount)
        return changed


def _sql(text: str, mapping: TableMapping, schema: str = SCHEMA) -> sql.Composed:
    """Names are those of our own tables; nothing from outside gets into the text."""
    table = mapping.table
    names = [column.name for column in table.primary_key.columns]
    same = sql.SQL(" AND ").join(
        sql.SQL("made.{0} = live.{0}").format(sql.Identifier(name)) for name in names
    )
    types = {column.name: sql.SQL(array_type(column)) for column in table.columns}
    return sql.SQL(text).format(
        schema=sql.Identifier(schema),
        kept=sql.Identifier(schema),
        table=sql.Identifier(table.name),
        columns=sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
        key=sql.Identifier(mapping.key),
        name=sql.Identifier(names[0]),
        step=sql.Identifier(STEP),
        name_type=types[names[0]],
        type=types[mapping.key],
        same=same,
    )


def _keys(mapping: TableMapping, names: Collection[str]) -> list[Any]:
    """As that column has them; a key that cannot be one has no rows there."""
    if array_type(mapping.table.columns[mapping.key]) != "UUID":
        return list(names)
    found = []
    for name in names:
        try:
            found.append(UUID(name))
        except ValueError:
            continue
    return found


def _jsoned(row: Sequence[Any], as_text: Sequence[bool]) -> list[Any]:
    return [orjson.dumps(value).decode() if text else value for value, text in zip(row, as_text, strict=True)]


def _difference(
    service: str, table: Table, key: str, live: dict[str, Any] | None, made: dict[str, Any] | None
) -> Finding:
    """`expected` is what is live, as everywhere in replay; `got` what the facts make."""
    name = ", ".join(str((live or made or {})[column.name]) for column in table.primary_key.columns)
    column = ""
    if live is None:
        says = f"{table.name} lacks {name}"
    elif made is None:
        says = f"{table.name} has {name}, which no fact made"
    else:
        others = [one for one in live if live[one] != made[one]]
        column = ", ".join(others)
        says = f"{table.name} {name} has another {column}"
        live, made = {one: live[one] for one in others}, {one: made[one] for one in others}
    return Finding("state", service, says, key, table=str(table.name), column=column, expected=live, got=made)
