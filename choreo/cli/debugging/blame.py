"""`choreo blame`: which event and which line last wrote each column of a row."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.chassis.transaction.state_store import TableMapping
from choreo.cli.debugging.row_formats import Paper, print_today, when
from choreo.errors import Incomplete, UsageError
from choreo.operations.reading.installation import find_installation
from choreo.operations.reading.replay_source import (
    check_complete,
    check_holds,
    check_service,
    described,
    reading,
    walking,
)
from choreo.replay.engine.in_memory_service import InMemoryService
from choreo.replay.history.as_dict import cause_as_dict, today_as_dict
from choreo.replay.history.blame import Change, changes, last_of_each, name_of_text
from choreo.replay.history.causes import Cause
from choreo.replay.sources.one_key import NoSuchRow, OneKey, open_key
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import Source
from choreo.replay.sources.rows import name_as_text, name_in, plain
from choreo.replay.sources.telling import shown


def blame(
    service: Annotated[str, typer.Argument(help="Its name, as order.")],
    table: Annotated[str, typer.Argument(help="One of its tables.")],
    primary_key: Annotated[str, typer.Argument(metavar="PK", help="A composite one as a,b.")],
    column: Annotated[str | None, typer.Argument(help="Only this column.")] = None,
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Every change, and not the last alone.")] = False,
    today: Annotated[
        bool, typer.Option("--today", help="As today's code decides it, not as recorded.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say which recorded event, and which lines, last changed each column of a row. Reads only.

    Where today's code would decide otherwise is said. In a running system only the row's key is read.

    Example: choreo blame billing accounts 6f0c…
    """
    check_service(service)
    if file is None and column is not None and (named := Path(column)).is_file():
        column, file = None, named
    with reading():
        try:
            asyncio.run(_blame(service, table, primary_key, column, file, history, today, as_json))
        except NoSuchRow:
            raise UsageError(
                f"{table} of {service} has no row {primary_key}: "
                f"`choreo state {service} --at -0s --table {table}` prints those it has."
            ) from None


async def _blame(
    name: str,
    table: str,
    primary_key: str,
    column: str | None,
    file: Path | None,
    history: bool,
    today: bool,
    as_json: bool,
) -> None:
    async with _opened(file, name, table, primary_key) as (source, mapping, row):
        if column is not None and column not in mapping.table.columns:
            columns = ", ".join(told.name for told in mapping.table.columns)
            raise UsageError(f"{table} has no column {column}: choose from {columns}.")
        key = source.key if isinstance(source, OneKey) else None
        async with walking(source, described(source, name), key, today=today) as walk:
            found = await changes(walk, mapping, row)
        if not found:
            check_complete(walk)
            if isinstance(source, OneKey):
                raise Incomplete(_nobody(name, f"{table} has {primary_key}"))
            raise UsageError(f"{table} of {name} has no row {primary_key}{_others(walk.in_memory, mapping)}.")
        found = [change for change in found if column in (None, change.column)]
        chosen = list(last_of_each(found).values())
        if as_json:
            told = _as_dict(name, table, row, chosen, file) | today_as_dict(walk)
            if history:
                told["history"] = [_change_as_dict(change) for change in found]
            print(json.dumps(told, indent=2))
        else:
            if history:
                _print_history(name, table, row, found)
            else:
                _print(name, table, row, chosen, file)
            print_today(walk)
        check_complete(walk)
        if isinstance(source, OneKey):
            await _check_row(source, name, mapping, row, chosen)


@asynccontextmanager
async def _opened(
    file: Path | None, name: str, table: str, primary_key: str
) -> AsyncIterator[tuple[Source, TableMapping, Any]]:
    """Yields the source, the table's mapping and the row's primary key."""
    if file is not None:
        recording = Recording(file)
        check_holds(recording, name)
        yield recording, *_row(described(recording, name).store.mappings, name, table, primary_key)
        return
    here = find_installation()
    service = here.service(name)
    mapping, row = _row(service.store.mappings, name, table, primary_key)
    url = here.database_urls[name]
    by_row = open_key(
        here.kafka, url, service, here.settings, partition_of=here.partition_of, row=(mapping, row)
    )
    async with by_row as source:
        yield source, mapping, row


def _row(
    mappings: tuple[TableMapping, ...], name: str, table: str, primary_key: str
) -> tuple[TableMapping, Any]:
    mapping = next((mapping for mapping in mappings if mapping.table.name == table), None)
    if mapping is None:
        names = ", ".join(mapping.table.name for mapping in mappings)
        raise UsageError(f"{name} has no table {table} that events make: choose from {names}.")
    try:
        return mapping, name_of_text(mapping.table, primary_key)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


async def _check_row(
    source: OneKey, name: str, mapping: TableMapping, row: Any, changes: list[Change]
) -> None:
    """Raises `Incomplete` where the table has another value than the one whose writer was told."""
    async for page in source.rows(name, mapping.table):
        for live in page:
            if name_in(mapping.table, live) == row:
                values = dict(zip(mapping.table.columns.keys(), live, strict=True))
                for change in changes:
                    if values[change.column] != change.new:
                        now = f"{mapping.table.name} {name_as_text(row)} has {change.column} "
                        now += f"{shown(values[change.column])}"
                        raise Incomplete(_nobody(name, now))


def _nobody(name: str, what: str) -> str:
    return (
        f"{what}, and nothing in the journal of {name} leads to that by today's evolve: "
        f"see `choreo verify --service {name}`."
    )


def _others(in_memory: InMemoryService[Any], mapping: TableMapping) -> str:
    """Names some rows there are."""
    names = sorted(map(name_as_text, in_memory.memory.rows(mapping)))
    some = ", ".join(names[:5])
    return f": it has {len(names)}{f', such as {some}' if names else ''}"


def _commands(name: str, cause: Cause, file: Path | None) -> list[str]:
    """Says which commands show more."""
    return [
        f"choreo trace {cause.flow}",
        f"choreo replay {file or 'live'} --service {name} --key {cause.key} --until {cause.id}",
    ]


def _as_dict(name: str, table: str, row: Any, changes: list[Change], file: Path | None) -> dict[str, Any]:
    return {
        "service": name,
        "table": table,
        "primary_key": name_as_text(row),
        "columns": {
            change.column: {
                "old": plain(change.old),
                "new": plain(change.new),
                "added": change.first,
                "cause": cause_as_dict(change.cause),
                "decided": change.decided or None,
                "written": change.written,
                "see": _commands(name, change.cause, file),
            }
            for change in changes
        },
    }


def _change_as_dict(change: Change) -> dict[str, Any]:
    return {
        "time": plain(change.cause.time),
        "fact": change.cause.fact,
        "fact_id": str(change.cause.fact_id),
        "column": change.column,
        "old": plain(change.old),
        "new": plain(change.new),
        "decided": change.decided or None,
        "handler": change.cause.handler,
        "data": change.fact.model_dump(mode="json"),
    }


def _print_history(name: str, table: str, row: Any, found: list[Change]) -> None:
    """Prints a line for each change, the latest last; what a row began with on one."""
    paper = Paper()
    paper.line(f"{name} {table} {name_as_text(row)}", "bold")
    for cause, group in groupby(found, key=lambda change: change.cause):
        changed = list(group)
        told = [f"{one.column} {shown(one.old)} → {shown(one.new)}" for one in changed]
        if changed[0].first:
            told = [", ".join(f"{one.column} {shown(one.new)}" for one in changed)]
        for what in told:
            paper.line(f"{when(cause, changed[0].fact)}  {what}  {changed[0].line}")


def _print(name: str, table: str, row: Any, changes: list[Change], file: Path | None) -> None:
    """Prints the latest write last."""
    paper = Paper()
    paper.line(f"{name} {table} {name_as_text(row)}", "bold")
    for cause, group in groupby(
        sorted(changes, key=lambda change: (change.cause.time, str(change.cause.fact_id))),
        key=lambda change: change.cause,
    ):
        paper.line(f"{cause.fact} {cause.fact_id}  {plain(cause.time)}", "cyan")
        chosen = list(group)
        paper.line(f"  {' → '.join(filter(None, (chosen[0].decided, *chosen[0].written)))}")
        if cause.fact_id != cause.id:
            paper.line(f"  because of {cause.type} {cause.id} {cause.at}".rstrip())
        elif cause.at:
            paper.line(f"  heard at {cause.at}")
        paper.columns(
            [
                (
                    change.column,
                    shown(change.new) if change.first else f"{shown(change.old)} → {shown(change.new)}",
                )
                for change in chosen
            ]
        )
        for command in _commands(name, cause, file):
            paper.command(f"  {command}")
