"""`choreo state`: a service's tables as they were, and what has changed since."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from choreo.cli.debugging.row_formats import Paper, count_of_rows, print_today
from choreo.errors import UsageError
from choreo.operations.reading.past import FoundHistory, FoundState, chosen, read_state
from choreo.operations.reading.replay_source import (
    check_complete,
    check_reached,
    check_service,
    described,
    key_of,
    moment_in,
    opened,
    reading,
    system,
    walking,
)
from choreo.replay.history.as_dict import today_as_dict
from choreo.replay.history.blame import row_changes
from choreo.replay.history.moments import End

_SHOWN = 20
"""Rows of a table, or differences."""


def state(
    service: Annotated[str, typer.Argument(help="Its name, as order.")],
    at: Annotated[
        str,
        typer.Option(
            metavar="MOMENT", help="A time, an id of an event or command, or a place: order-events[0]@17."
        ),
    ],
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Only the rows of this user: an id or a login; fast.")
    ] = None,
    diff: Annotated[
        str | None, typer.Option(metavar="MOMENT|live", help="What is different there, row by row.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="With --key: a line for each change of its rows up to then.")
    ] = False,
    today: Annotated[
        bool, typer.Option("--today", help="As today's code decides it, not as recorded.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many rows of each table; says how many are left out.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead, and without --limit all of it.")
    ] = False,
) -> None:
    """Print a service's tables as they were at a moment. Reads only.

    The recorded events up to then are folded by today's evolve; where today's code would decide otherwise is
    said. A time (2030-01-31T09:00:00Z, or -5m) is all that the service had decided by then; an id is right
    after the service had applied it.

    Example: choreo state billing --at -5m --key 6f0c… --diff live
    """
    check_service(service)
    if history and (key is None or diff is not None):
        raise UsageError("--history goes with --key, and without --diff: it tells all that changed.")
    with reading():
        asyncio.run(_state(service, file, at, key, diff, table, history, today, limit, as_json))


async def _state(
    name: str,
    file: Path | None,
    at: str,
    key: str | None,
    diff: str | None,
    table: str | None,
    history: bool,
    today: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    where = system(file)
    key = await key_of(where, key)
    async with opened(where, name, key) as source:
        mappings = chosen(described(source, name).store.mappings, table)
        moment = await moment_in(source, at, name, where)
        other = None
        if diff is not None:
            end = End() if file else End("live")
            other = end if diff == "live" else await moment_in(source, diff, name, where)
        found: FoundState | FoundHistory
        async with walking(source, described(source, name), key, today=today) as walk:
            if history:
                found = FoundHistory(moment, await row_changes(walk, moment, mappings))
            else:
                found = await read_state(source, walk, mappings, moment, other)
        for one in (moment, other):
            if one is not None:
                check_reached(one, walk, where)
        if as_json:
            told = found.as_dict(limit) if isinstance(found, FoundState) else found.as_dict()
            print(json.dumps(told | today_as_dict(walk), indent=2))
        else:
            if isinstance(found, FoundHistory):
                _print_history(name, key, found)
            else:
                _print(name, found, limit or (None if key else _SHOWN))
            print_today(walk)
        check_complete(walk)


def _print(name: str, found: FoundState, limit: int | None) -> None:
    paper = Paper()
    if found.other is not None:
        differ = count_of_rows(len(found.differences), "differs", "differ")
        paper.line(f"{name}: {found.moment} → {found.other}, {differ}", "bold")
        shown = found.differences[:limit]
        for difference in shown:
            paper.difference(difference)
        _more(paper, len(found.differences) - len(shown))
        return
    paper.line(f"{name} at {found.moment}", "bold")
    for mapping in found.mappings:
        rows = found.tables.of(mapping)
        paper.line(f"{mapping.table.name}: {count_of_rows(len(rows))}", "cyan")
        some = list(rows.items())[:limit]
        for row, (told, cause) in some:
            paper.row(mapping, row, told, cause)
        _more(paper, len(rows) - len(some))


def _print_history(name: str, key: str | None, found: FoundHistory) -> None:
    """Prints a line for each change of a row, the latest last."""
    paper = Paper()
    paper.line(f"{name}: key {key} up to {found.moment}", "bold")
    for change in found.changes:
        paper.row_change(change)


def _more(paper: Paper, count: int) -> None:
    if count > 0:
        paper.line(f"  ... and {count} more: choose with --key and --table, or print all with --json")
