"""Which input, and which line of evolve, gave each column of a row the value it has: `choreo blame`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Table, Uuid

from choreo.chassis.transaction.state_store import TableMapping
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


async def last_changes(walk: Walk[Any], mapping: TableMapping, name: Any) -> dict[str, Change]:
    """Returns the last change of each column; nothing where the row was never written."""
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
