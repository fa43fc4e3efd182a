"""A service's rows as they were at a moment, and what changed between two: `choreo state`."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Table

from choreo.chassis.transaction.state_store import TableMapping
from choreo.collector import no_collector
from choreo.replay.engine.in_memory_service import Row
from choreo.replay.engine.walk import Walk, Write
from choreo.replay.history.causes import Cause, cause_of
from choreo.replay.history.moments import Moment
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import name_in, values


@dataclass
class Tables:
    """The rows at one moment, and the cause of each."""

    moment: Moment
    rows: dict[Row, tuple[Any, Cause]] = field(default_factory=dict)

    def of(self, mapping: TableMapping) -> dict[Any, tuple[tuple[Any, ...], Cause]]:
        """Returns values and cause of each row, by primary key."""
        return {
            name: (values(mapping.table, row), cause)
            for (of, name), (row, cause) in self.rows.items()
            if of == mapping.field
        }


async def tables_at(walk: Walk[Any], *moments: Moment) -> list[Tables]:
    """Reads once for all moments, up to where nothing that comes is part of any of them."""
    found = [Tables(moment) for moment in moments]
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        with no_collector():
            async for ahead in inputs:
                including = [tables for tables in found if tables.moment.includes(ahead.entry)]
                done = walk.take(ahead) if including else None
                if done is None:
                    continue
                for tables in including:
                    tables.moment.passed(ahead.entry, done.events)
                    for write in done.writes:
                        tables.rows[write.mapping.field, write.name] = write.row, cause_of(ahead, write)
                if all(tables.moment.over for tables in found):
                    break
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that differs. Its columns are those that do: name, old and new."""

    change: Literal["added", "removed", "changed"]
    table: Table
    name: Any
    columns: Sequence[tuple[str, Any, Any]]
    cause: Cause | None
    """None: the journal knows of none."""


Named = dict[Any, tuple[tuple[Any, ...], Cause | None]]
"""Rows of a table and their causes, by primary key."""


def differences(table: Table, before: Named, after: Named) -> Iterator[Difference]:
    """Yields the rows that differ, with the cause of the later row; of a removed one, of the former."""
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


def difference_made_by(write: Write) -> Difference:
    """Returns what a fact does to a row. The cause is the caller's to know."""
    table = write.mapping.table
    before: Named = {} if write.old is None else {write.name: (values(table, write.old), None)}
    (difference,) = differences(table, before, {write.name: (values(table, write.row), None)})
    return difference


async def live_rows(source: Source, service: str, mapping: TableMapping, explained: Tables) -> Named:
    """Reads the rows of the tables; each has the cause of the replayed row if it is the same.

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
