"""`choreo flows`: what was asked lately, how it went, and what has not come yet."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from choreo.cli.debugging.row_formats import Paper
from choreo.operations.reading import flows as reading_flows
from choreo.operations.reading.replay_source import reading, system
from choreo.progress import telling as telling_progress
from choreo.replay.sources.rows import plain
from choreo.replay.sources.telling import telling, whose
from choreo.replay.trace.as_dict import flows_as_dict
from choreo.replay.trace.flows import (
    FlowFilter,
    Listed,
    State,
    gaps_of,
    minor_units,
    state_of,
    took_ms,
)
from choreo.replay.trace.trace import Tree

_STYLES = {"refused": "yellow", "missing": "red", "in-flight": "cyan"}


def flows(
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    of: Annotated[
        str | None, typer.Option("--of", metavar="ID", help="Only what this is about: any id, or a login.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only those that stand so.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="Only those in which this came out: `rejected`, `insufficient_funds`.")
    ] = None,
    amount: Annotated[str | None, typer.Option(help="Only those with this amount: 500.00.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only those begun then or later.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only those begun earlier.")] = None,
    slower: Annotated[float | None, typer.Option(metavar="MS", help="Only those that took longer.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many: the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """List flows, the newest first: what was asked, what came of it, and what is missing.

    A flow is all that follows from one request. It is `finished`, `refused`, `in-flight` (goes on by itself)
    or `missing` something that has to be looked after. Of many, the newest 2,000 are looked through. Reads
    only, and joins no consumer group. Exits 1 if there is none. See docs/flows.md.
    """
    with reading(), telling_progress() as tell:
        filter = FlowFilter(
            state=state,
            outcome=outcome,
            amount=None if amount is None else minor_units(amount),
            since=None if since is None else reading_flows.time_of(since),
            until=None if until is None else reading_flows.time_of(until),
            slower_ms=slower,
        )
        found = asyncio.run(reading_flows.flows(system(file), filter, limit, of=of, tell=tell))
    if as_json:
        print(json.dumps(flows_as_dict(found), indent=2, default=str))
    else:
        _print(found)
    if not found.flows:
        raise typer.Exit(1)


def _print(found: Listed) -> None:
    paper = Paper()
    for tree in found.flows:
        _print_flow(paper, tree)
    count = len(found.flows)
    paper.line(f"{count} of the {found.looked_at} flows that were looked at.")
    if found.next_until:
        paper.line(f"Older ones: --until {plain(found.next_until)}")


def _print_flow(paper: Paper, tree: Tree) -> None:
    state = state_of(tree)
    asked = f"{tree.service} {tree.asked.type}" if tree.asked else "a flow whose request is not known"
    refusal = (tree.asked.refusal or {}).get("type", "") if tree.asked else ""
    took = f"{took_ms(tree):.0f} ms"
    paper.parts("", str(plain(tree.began_at)), asked, state, str(refusal), took, style=_STYLES.get(state, ""))
    for depth, node in tree.everything():
        event = node.way.event
        paper.parts("  " * (depth + 2), event.type, telling(event.type, event.data), style="dim")
    for gap in gaps_of(tree):
        expected = f": {' or '.join(gap.expects)}" if gap.expects else ""
        paper.line(f"    ? {gap.service} {gap.state}{expected}, {gap.says}", "red")
    paper.command(f"    choreo trace {tree.flow}  # {whose(tree.key)}")
