"""`choreo log`: records as they lie in a topic, decoded and raw, and who applied each."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from choreo.cli.debugging.row_formats import Paper
from choreo.operations.reading.log import read_log
from choreo.operations.reading.replay_source import reading, system
from choreo.replay.sources.telling import telling, whose
from choreo.replay.trace.as_dict import clock, log_as_dict
from choreo.replay.trace.log import Heard, RecordFilter, RecordRead, header_of


def log(
    place: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC[P]@O", help="From there on; a topic, or a partition of it: the newest there."
        ),
    ],
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Only of this key, or of whom this id or login is about.")
    ] = None,
    type: Annotated[str | None, typer.Option(help="Only of this type: OrderCreated.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with this header; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many.")] = 20,
    raw: Annotated[
        bool, typer.Option("--raw", help="With key, headers and value as they lie there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show records as they lie in a topic, as events and raw, and what every service did with each.

    Looks through 20,000 records at most for those that are wanted. Reads only, and joins no consumer group.
    Exits 1 if there is none. See docs/flows.md.
    """
    filter = RecordFilter(key=key, type=type, headers=dict(map(header_of, header or ())))
    with reading():
        page, records = asyncio.run(read_log(system(file), place, filter, limit))
    if as_json:
        print(json.dumps(log_as_dict(page, records), indent=2, default=str))
    else:
        paper = Paper()
        for record in records:
            _print(paper, record, raw)
        paper.line(f"{len(records)} of the {page.looked_at} records that were looked at.")
    if not records:
        raise typer.Exit(1)


def _print(paper: Paper, read: RecordRead, raw: bool) -> None:
    record, event = read.record, read.event
    paper.parts("", record.at, clock(record.timestamp / 1000), style="bold")
    if event:
        paper.parts("    ", event.type, telling(event.type, event.data), whose(event.key), str(event.id))
    else:
        paper.line(f"    no event: {read.not_an_event}", "red")
    if raw:
        _print_raw(paper, read)
    for heard in read.heard:
        paper.parts("    ", heard.hearing.service, *_did(heard), style="dim")


def _print_raw(paper: Paper, read: RecordRead) -> None:
    bare = read.record.record
    paper.command(f"    key    {_text(bare.key)}")
    for name, value in bare.headers:
        paper.command(f"    header {name}: {_text(value)}")
    paper.command(f"    value  {_text(bare.value)}")


def _text(data: bytes | None) -> str:
    return "null" if data is None else data.decode(errors="backslashreplace")


def _did(heard: Heard) -> list[str]:
    entry = heard.entry
    if entry is None or heard.hearing.outcome in ("unread", "skipped", "duplicate"):
        return [heard.hearing.outcome]
    error = f"{entry.error} ({entry.source_line})" if entry.source_line else entry.error or ""
    return [heard.hearing.outcome, clock(entry.decided_at.timestamp()), error]
