"""Which input, and which line of evolve, gave each column of a row the value it has: `choreo blame`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Table, Uuid

from choreo.chassis.transaction.state_store import TableMapping
from choreo.replay.engine.deciding_lines import decided_at
from choreo.replay.engine.walk import Ahead, Walk, Write
from choreo.replay.history.causes import Cause, cause_of
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
    decided: str = ""
    """The line of decide that made the fact; empty for a heard one, and where today's code differs."""


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
    is_own = write.event.id != ahead.entry.id
    decided = decided_at(ahead.taken, write.event.data) if is_own and not differs else None
    for column, was, is_ in zip(table.columns, old, new, strict=True):
        if write.old is None or was != is_:
            cause = cause_of(ahead, write)
            yield Change(str(column.name), was, is_, cause, write.old is None, decided or "")


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
