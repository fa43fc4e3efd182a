"""`choreo trace`: what followed from what, how long each hop took, and what is still missing."""

import asyncio
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.cli.debugging.trace_formats import as_json, as_mermaid, print_table, print_trees
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.operations.reading.flows import traced
from choreo.operations.reading.replay_source import system
from choreo.progress import telling
from choreo.replay.sources.recording import NotARecording
from choreo.replay.sources.records import Broken


class Format(StrEnum):
    tree = "tree"
    table = "table"
    mermaid = "mermaid"
    json = "json"


def trace(
    id: Annotated[
        str,
        typer.Argument(metavar="ID", help="Of an order, a user, an event ..., or how it begins; a login."),
    ],
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.tree,
    limit: Annotated[int, typer.Option(min=1, help="Of a user, so many flows: the newest.")] = 20,
    in_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
) -> None:
    """Show what followed from what: each event, what every service did with it, and what is missing.

    Reads only, and joins no consumer group. Exits 1 if nobody knows the id. See docs/trace.md.
    """
    id = id.strip()
    format = Format.json if in_json else format
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say is raised as well
    try:
        with telling() as tell:
            found, left_out = asyncio.run(traced(system(file), id, limit, tell))
    except NotARecording as wrong:
        raise UsageError(str(wrong)) from None
    except Broken as broken:
        raise (Incomplete if file else Unavailable)(f"Nothing can be traced: {broken}") from None
    except (psycopg.Error, *LOG_UNREADABLE, OSError) as error:
        raise Unavailable(f"Nothing can be traced: {(str(error) or repr(error)).splitlines()[0]}") from error
    if not found:
        where = f"in {file}" if file else "in this system"
        print(
            f"choreo: Nothing {where} has the id {id}; see docs/trace.md for the ids it can be.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    match format:
        case Format.tree:
            print_trees(found, left_out)
        case Format.table:
            print_table(found, left_out)
        case Format.mermaid:
            print(as_mermaid(found, left_out))
        case Format.json:
            print(as_json(id, found, left_out))
