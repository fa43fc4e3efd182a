"""A service's past, in the running system or in a recording: its rows then, and how they came to be so."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import psycopg

from choreo.chassis.database.rows import array_type
from choreo.chassis.registry import services
from choreo.chassis.transaction.state_store import TableMapping
from choreo.errors import UsageError
from choreo.operations.reading.flows import settings_of
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import (
    System,
    check_reached,
    check_service,
    described,
    key_in,
    moment_in,
    opened,
)
from choreo.replay.engine.walk import Walk
from choreo.replay.history.as_dict import (
    difference_as_dict,
    input_as_dict,
    row_as_dict,
    row_change_as_dict,
    today_as_dict,
)
from choreo.replay.history.blame import RowChange, row_changes
from choreo.replay.history.moments import End, Moment, Noted
from choreo.replay.history.state import Difference, Tables, differences, live_rows, tables_at
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import Source, lacking
from choreo.replay.trace.find import sessions


@dataclass(frozen=True)
class FoundState:
    moment: Moment
    other: Moment | None
    mappings: Sequence[TableMapping]
    tables: Tables
    differences: Sequence[Difference]

    def as_dict(self, limit: int | None = None) -> dict[str, Any]:
        """As JSON has it; of each table so many rows, and then how many are left out."""
        if self.other is not None:
            return {
                "at": str(self.moment),
                "diff": str(self.other),
                "differences": [difference_as_dict(found) for found in self.differences],
            }
        rows = [(mapping.table.name, mapping, self.tables.of(mapping)) for mapping in self.mappings]
        tables = {
            name: [row_as_dict(mapping, *found) for found in islice(of.values(), limit)]
            for name, mapping, of in rows
        }
        told = {"at": str(self.moment), "tables": tables}
        if limit is None:
            return told
        return told | {"left_out": {name: max(0, len(of) - limit) for name, _, of in rows}}


@dataclass(frozen=True)
class FoundHistory:
    moment: Moment
    changes: Sequence[RowChange]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"at": str(self.moment), "history": [row_change_as_dict(change) for change in self.changes]}


async def read_state(
    source: Source, walk: Walk[Any], mappings: Sequence[TableMapping], moment: Moment, other: Moment | None
) -> FoundState:
    """Reads the rows at a moment, and what differs at the other one.

    With `End` as the other, the tables themselves are compared, where the source keeps them.
    """
    if other is None:
        (tables,) = await tables_at(walk, moment)
        return FoundState(moment, None, mappings, tables, ())
    tables, later = await tables_at(walk, moment, other)
    found: list[Difference] = []
    for mapping in mappings:
        after: Any = later.of(mapping)
        if isinstance(other, End) and source.rows(walk.service.name, mapping.table) is not None:
            after = await live_rows(source, walk.service.name, mapping, later)
        found += differences(mapping.table, dict(tables.of(mapping)), after)
    return FoundState(moment, other, mappings, tables, found)


def chosen(mappings: Sequence[TableMapping], table: str | None) -> Sequence[TableMapping]:
    found = [mapping for mapping in mappings if table in (None, mapping.table.name)]
    if not found:
        names = ", ".join(mapping.table.name for mapping in mappings)
        raise UsageError(f"There is no table {table}: choose from {names}.")
    return found


def tables_of(where: System) -> dict[str, list[str]]:
    """Returns the names of the tables that events make, by service; of a recording those that it has."""
    known = services(settings_of(where))
    names = where.cut.services if isinstance(where, Recording) else known
    made = {name: service.store.mappings for name, service in known.items() if name in names}
    return {name: [mapping.table.name for mapping in mappings] for name, mappings in made.items()}


async def read_rows(
    here: Installation, name: str, table: str, after: Sequence[str], limit: int
) -> dict[str, Any]:
    """Returns so many rows of a table as they are now, in the order of its primary key: those behind the one
    that is named, part by part. However long the table is, no more is read.

    Raises `UsageError`, psycopg.Error.
    """
    check_service(name)
    (mapping,) = chosen(here.service(name).store.mappings, table)
    columns, primary_key = list(mapping.table.columns), list(mapping.table.primary_key)
    names = ", ".join(column.name for column in primary_key)
    if len(after) not in (0, len(primary_key)):
        raise UsageError(f"A row of {table} is named by {names}.")
    types = ", ".join(f"%s::{array_type(column)}" for column in primary_key)
    query = (
        f"/* past.rows */ SELECT {', '.join(column.name for column in columns)} FROM {table} "
        f"{f'WHERE ({names}) > ({types})' if after else ''} ORDER BY {names} LIMIT {limit + 1}"
    )
    async with sessions({name: here.database_urls[name]}) as conns:
        try:
            found = await (await conns[name].execute(query.encode(), [*after])).fetchall()
        except psycopg.DataError:
            raise UsageError(f"{', '.join(after)} names no row of {table}.") from None
    rows = [row_as_dict(mapping, row, None) | {"key": None} for row in found[:limit]]
    for one in rows:
        one["key"] = str(one["row"][mapping.key])
    last = [str(rows[-1]["row"][column.name]) for column in primary_key] if len(found) > limit else None
    return {
        "service": name,
        "table": table,
        "columns": [column.name for column in columns],
        "primary_key": [column.name for column in primary_key],
        "rows": rows,
        "next_after": last,
    }


async def read_past(
    where: System, name: str, key: str, at: str | None, diff: str | None = None, table: str | None = None
) -> dict[str, Any]:
    """Returns all of a key's rows at a moment, without one at the end; all its inputs, and how many of them
    lie before; and every change of its rows. With `diff`, what differs at another moment, or `live`. All
    tables are returned; the one that is named must be there.

    Raises `UsageError`, `NoMoment`, `Incomplete`.
    """
    check_service(name)
    key = await key_in(where, key)
    async with opened(where, name, key) as source:
        service = described(source, name)
        mappings = service.store.mappings
        chosen(mappings, table)
        trimmed = (await lacking(source, name)).values()

        def walk() -> Walk[Any]:
            begun = Walk(source, service, key)
            begun.lacks += trimmed
            return begun

        async def moment_of(text: str | None) -> Moment:
            end = End() if isinstance(where, Recording) else End("live")
            return end if text in (None, "live") else await moment_in(source, text, name, where)

        moment, end = Noted(await moment_of(at)), Noted(End())
        other = None if diff is None else await moment_of(diff)
        some, all_of_it = walk(), walk()
        state = await read_state(source, some, mappings, moment, other)
        for one in (moment, other):
            if one is not None:
                check_reached(one, some, where)
        history = FoundHistory(end, await row_changes(all_of_it, end, mappings))
    return {
        **state.as_dict(),
        **replace(state, other=None).as_dict(),
        **today_as_dict(all_of_it),
        "service": name,
        "key": key,
        "primary_keys": {
            mapping.table.name: [column.name for column in mapping.table.primary_key] for mapping in mappings
        },
        "columns": {
            mapping.table.name: [column.name for column in mapping.table.columns] for mapping in mappings
        },
        "inputs": [input_as_dict(entry) for entry in end.inputs],
        "position": len(moment.inputs),
        "history": history.as_dict()["history"],
        "lacks": all_of_it.lacks,
    }
