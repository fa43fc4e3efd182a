"""`choreo trace`: what followed from what, how long each hop took, and what is still missing."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.cli.debugging.trace_formats import as_json, as_mermaid, print_table, print_trees
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.message.codec import TopicRecord
from choreo.operations.reading.installation import Installation, find_installation
from choreo.progress import telling
from choreo.replay.history.moments import place_of
from choreo.replay.sources.one_key import records_at
from choreo.replay.sources.recording import NotARecording, Recording
from choreo.replay.sources.records import Broken
from choreo.replay.trace.find import find
from choreo.replay.trace.find_recorded import find_recorded
from choreo.replay.trace.published_events import event_in
from choreo.replay.trace.trace import Material, Tree, trees
from choreo.styles.composition import has_kafka


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
        found, left_out = (
            _recorded(file, id, limit) if file else asyncio.run(live(find_installation(), id, limit))
        )
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


async def live(installation: Installation, id: str, limit: int = 20) -> tuple[list[Tree], int]:
    """Returns the trees, oldest first, and how many flows were left out."""
    settings = installation.settings
    if place := place_of(id, settings.topic_prefix):
        found = await records_at(installation.kafka, [(place.topic, place.partition, place.offset)])
        id = _flow_of(found) or id
    with telling() as tell:
        material = await find(
            installation.kafka if has_kafka(installation.style) else None,
            installation.database_urls,
            settings,
            installation.partition_of,
            {name: installation.service(name).ids for name in installation.database_urls},
            id,
            limit,
            tell,
        )
    return _trees(material, settings)


def _recorded(file: Path, id: str, limit: int) -> tuple[list[Tree], int]:
    recording = Recording(file)
    settings = recording.cut.settings
    if place := place_of(id, settings.topic_prefix):
        items = (item for batch in recording.read() for item in batch)
        there = [item for item in items if isinstance(item, TopicRecord) and item.at == str(place)]
        id = _flow_of(there) or id
    with telling() as tell:
        material = find_recorded(
            recording,
            {name: service.ids for name, service in services(settings).items()},
            id,
            limit,
            _consumed_types(settings),
            lambda done, total: tell("reading", done, total),
        )
    return _trees(material, settings)


def _flow_of(records: Sequence[TopicRecord]) -> str | None:
    """Returns the flow of the event that lies there; None where none does."""
    events = [event for record in records if (event := event_in(record))]
    return str(events[0].flow) if events else None


def _trees(material: Material | None, settings: Settings) -> tuple[list[Tree], int]:
    return (trees(material, _consumed_types(settings)), material.left_out) if material else ([], 0)


def _consumed_types(settings: Settings) -> dict[str, set[str]]:
    return {
        name: {fact.__name__ for fact in service.consumes} for name, service in services(settings).items()
    }
