"""Which input, and which line of evolve, gave each column of a row the value it has: `choreo blame`.

And what became of all rows of a key: `choreo state --history`.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Table, Uuid

from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.fact import Fact
from choreo.replay.engine.cases import written_through
from choreo.replay.engine.deciding_lines import decided_at
from choreo.replay.engine.walk import Ahead, Walk, Write
from choreo.replay.history.causes import Cause, cause_of
from choreo.replay.history.moments import Moment
from choreo.replay.sources.rows import values


@dataclass(frozen=True, slots=True)
class Change:
    """The last write that gave a column another value."""

    column: str
    old: Any
    new: Any
    cause: Cause
    first: bool
    """The row was new."""
    fact: Fact
    decided: str
    """The line of decide that made the fact; empty for a heard one, and where today's code differs."""
    written: tuple[str, ...]
    """The lines from evolve to where it made the row."""

    @property
    def line(self) -> str:
        """Where it was decided, or else where it was written."""
        return self.decided or self.written[-1]


async def changes(walk: Walk[Any], mapping: TableMapping, name: Any) -> list[Change]:
    """Returns every change of a row's columns, in order; nothing where the row was never written."""
    found: list[Change] = []
    async for ahead in walk.inputs():
        done = walk.take(ahead)
        for write in done.writes if done else ():
            if write.mapping.field == mapping.field and write.name == name:
                found += _changes(ahead, write, differs=bool(done and done.differs))
    return found


def _changes(ahead: Ahead, write: Write, *, differs: bool) -> Iterator[Change]:
    table = write.mapping.table
    new = values(table, write.row)
    old = values(table, write.old) if write.old is not None else (None,) * len(new)
    decided = "" if differs else _decided(ahead, write)
    evolve = ahead.taken.service.decider.evolve_of(type(write.event.data))
    written = written_through(evolve, write.before, write.event, write.row)
    for column, was, is_ in zip(table.columns, old, new, strict=True):
        if write.old is None or was != is_:
            cause = cause_of(ahead, write)
            is_new, fact = write.old is None, write.event.data
            yield Change(str(column.name), was, is_, cause, is_new, fact, decided, written)


def _decided(ahead: Ahead, write: Write) -> str:
    is_own = write.event.id != ahead.entry.id
    return decided_at(ahead.taken, write.event.data) or "" if is_own else ""


@dataclass(frozen=True, slots=True)
class RowChange:
    """What a fact made of a row, in all its columns."""

    write: Write
    cause: Cause
    line: str
    """Where it was decided, or else where it was written."""


async def row_changes(walk: Walk[Any], moment: Moment, mappings: Collection[TableMapping]) -> list[RowChange]:
    """Returns every change of the rows of the walk's key up to a moment, in order."""
    found: list[RowChange] = []
    fields = {mapping.field for mapping in mappings}
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        async for ahead in inputs:
            done = walk.take(ahead) if moment.includes(ahead.entry) else None
            if done is None:
                continue
            moment.passed(ahead.entry, done.events)
            for write in done.writes:
                if write.mapping.field in fields and write.old != write.row:
                    line = "" if done.differs else _decided(ahead, write)
                    found.append(RowChange(write, cause_of(ahead, write), line or write.case))
            if moment.over:
                break
    return found


def last_of_each(found: Iterable[Change]) -> dict[str, Change]:
    """Returns the last change of each column."""
    return {change.column: change for change in found}


def name_of_text(table: Table, text: str) -> Any:
    """Reads a primary key as somebody writes it, a composite one as `a,b`. Raises ValueError."""
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
