"""A service's rows as they were, what changed between two moments, and who wrote what."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Table, Uuid

from choreo.chassis.transaction.state_store import TableMapping
from choreo.replay.engine.collector import no_collector
from choreo.replay.engine.in_memory_service import Row
from choreo.replay.engine.walk import Ahead, Walk, Write
from choreo.replay.history.moments import Moment
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import name_in, values


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a row is as it is: the input, and the fact of its step that put the row."""

    id: UUID
    type: str
    kind: str
    """fact (a heard event) or command."""
    key: str
    at: str
    """Where the input lies in Kafka; empty for a command."""
    fact: str
    """Its type: the input's own where that is a fact the rows know."""
    fact_id: UUID
    time: datetime
    """The fact's own."""
    flow: UUID
    handler: str
    """File and line in evolve."""


@dataclass
class Tables:
    """The rows at one moment, and the cause of each."""

    moment: Moment
    rows: dict[Row, tuple[Any, Cause]] = field(default_factory=dict)

    def of(self, mapping: TableMapping) -> dict[Any, tuple[tuple[Any, ...], Cause]]:
        """By primary key, in the order of the table's columns."""
        return {
            name: (values(mapping.table, row), cause)
            for (of, name), (row, cause) in self.rows.items()
            if of == mapping.field
        }


async def tables_at(walk: Walk[Any], *moments: Moment) -> list[Tables]:
    """In one reading. It ends as soon as nothing that comes is part of any of them."""
    found = [Tables(moment) for moment in moments]
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        with no_collector():
            async for ahead in inputs:
                including = [tables for tables in found if tables.moment.includes(ahead.entry)]
                done = walk.take(ahead) if including else None
                if done is None:
                    continue
                for tables in including:
                    tables.moment.passed(ahead.entry, done.step)
                    for write in done.writes:
                        tables.rows[write.mapping.field, write.name] = write.row, cause_of(ahead, write)
                if all(tables.moment.over for tables in found):
                    break
    return found


def cause_of(ahead: Ahead, write: Write) -> Cause:
    entry, event = ahead.entry, write.event
    return Cause(
        entry.id,
        entry.type,
        entry.kind,
        entry.key,
        ahead.at,
        event.type,
        event.id,
        event.time,
        event.correlation_id,
        write.case,
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """One row. Columns are those that differ: name, old and new."""

    change: Literal["added", "removed", "changed"]
    table: Table
    name: Any
    columns: Sequence[tuple[str, Any, Any]]
    cause: Cause | None
    """None: the journal knows of none."""


Named = dict[Any, tuple[tuple[Any, ...], Cause | None]]
"""Rows of a table and their causes, by primary key."""


def differences(table: Table, before: Named, after: Named) -> Iterator[Difference]:
    """The cause is that of the later row; of a removed one that of the former."""
    for name in sorted({*before, *after}, key=str):
        old, new = before.get(name), after.get(name)
        told = zip(
            (column.name for column in table.columns),
            old[0] if old else [None] * len(table.columns),
            new[0] if new else [None] * len(table.columns),
            strict=True,
        )
        columns = [one for one in told if one[1] != one[2]]
        if old is None and new is not None:
            yield Difference("added", table, name, columns, new[1])
        elif new is None and old is not None:
            yield Difference("removed", table, name, columns, old[1])
        elif new is not None and columns:
            yield Difference("changed", table, name, columns, new[1])


def written(write: Write) -> Difference:
    """What a fact does to a row. The cause is the caller's to know."""
    table = write.mapping.table
    before: Named = {} if write.old is None else {write.name: (values(table, write.old), None)}
    (difference,) = differences(table, before, {write.name: (values(table, write.row), None)})
    return difference


async def live_rows(source: Source, service: str, mapping: TableMapping, explained: Tables) -> Named:
    """The rows of the tables; each has the cause of the replayed row if it is the same.

    The source must keep rows.
    """
    replayed, found = explained.of(mapping), Named()
    pages = source.rows(service, mapping.table)
    assert pages is not None
    async for page in pages:
        for row in page:
            name = name_in(mapping.table, row)
            told, cause = replayed.get(name, (None, None))
            found[name] = tuple(row), cause if told == tuple(row) else None
    return found


def name_of_text(table: Table, text: str) -> Any:
    """A primary key as somebody writes it, a composite one as `a,b`. Raises ValueError."""
    columns = list(table.primary_key.columns)
    parts = text.rsplit(",", len(columns) - 1)
    if len(parts) != len(columns):
        raise ValueError(f"{table.name} is keyed by {','.join(column.name for column in columns)}")
    names = []
    for column, part in zip(columns, parts, strict=True):
        try:
            names.append(UUID(part) if isinstance(column.type, Uuid) else part)
        except ValueError:
            raise ValueError(f"{part} is no {column.name} of {table.name}: that is a UUID") from None
    return names[0] if len(names) == 1 else tuple(names)


@dataclass(frozen=True, slots=True)
class Change:
    """The last write that gave a column another value."""

    column: str
    old: Any
    new: Any
    cause: Cause
    first: bool
    """The row was new."""


async def last_changes(walk: Walk[Any], mapping: TableMapping, name: Any) -> dict[str, Change]:
    """By column; empty where the row was never written."""
    found: dict[str, Change] = {}
    async for ahead, write in _writes(walk):
        if write.mapping.field != mapping.field or write.name != name:
            continue
        columns = [column.name for column in mapping.table.columns]
        new = values(mapping.table, write.row)
        old = values(mapping.table, write.old) if write.old is not None else (None,) * len(columns)
        for column, was, is_ in zip(columns, old, new, strict=True):
            if write.old is None or was != is_:
                found[column] = Change(column, was, is_, cause_of(ahead, write), write.old is None)
    return found


async def _writes(walk: Walk[Any]) -> AsyncIterator[tuple[Ahead, Write]]:
    async for ahead in walk.inputs():
        if done := walk.take(ahead):
            for write in done.writes:
                yield ahead, write
