"""How a trace looks: a tree or a table for people, Mermaid for documents, JSON for programs.

Text fits the terminal, and 80 columns where there is none; it is in colour only on a terminal. Times are
milliseconds from the root.
"""

import json
import re
from collections.abc import Iterator, Sequence
from textwrap import shorten, wrap

from rich.markup import escape

from choreo.chassis.registry import service_names
from choreo.demo.screens import LABELS, figure, print_beneath, print_line
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.replay.sources.telling import telling, whose
from choreo.replay.trace.as_dict import after_ms, clock, trace_as_dict
from choreo.replay.trace.hops import Hop
from choreo.replay.trace.journals import JournalRow
from choreo.replay.trace.published_events import PublishedEvent
from choreo.replay.trace.trace import Gap, Node, Tree
from choreo.terminal import Console, packed

WIDTH = 100
_COLUMNS = ("outbox", "broker", "consumer", "transaction")
_INDENT = "   "
_MARGIN = 4
_LONG = 200


def print_trees(trees: Sequence[Tree], left_out: int) -> None:
    console = _console()
    _say_left_out(console, left_out)
    for tree in trees:
        console.print(f"[bold]{escape(_heading(tree))}[/]")
        _print_gaps(console, tree.gaps, "")
        for depth, node in tree.everything():
            event, margin = node.way.event, _INDENT * depth
            begin = f"    {margin}{_INDENT}"
            name, *told = packed([event.type, *_told(node)], console.width - len(begin))
            console.print(f"    {margin}[cyan]└─ {escape(name)}[/]")
            for line in (*told, *packed([_place(event), str(event.id)], console.width - len(begin))):
                console.print(f"{begin}[dim]{escape(line)}[/]")
            print_beneath(console, node.way, margin)
            _print_gaps(console, node.gaps, margin + _INDENT)
        for service, entry in tree.journaled:
            after = f"+{after_ms(tree, entry):.1f}"
            console.print(f"    [cyan]└─ {entry.type:<25}[/] {after:>9} ms  {_did(service, entry)}")
        console.print()


def _told(node: Node) -> list[str]:
    """Says what an event's type does not: its amounts and reasons, and when."""
    event = node.way.event
    return [telling(event.type, event.data), f"+{node.after_ms:.1f} ms"]


def _place(event: PublishedEvent) -> str:
    return f"{event.topic}[{event.partition}]@{event.offset}"


def _did(service: str, entry: JournalRow) -> str:
    decided = f", decided {entry.facts}" if entry.facts else ""
    return f"{service} {entry.outcome}{decided}"


def _print_gaps(console: Console, gaps: Sequence[Gap], margin: str) -> None:
    """Prints each where the missing event would have been."""
    for gap in gaps:
        if gap.expects:
            console.print(f"    {margin}[red]└─ ? {' or '.join(gap.expects)}[/]")
        says = wrap(_why(gap), console.width - _MARGIN - len(margin) - len(_INDENT) - LABELS)
        print_line(console, margin, gap.service, gap.state, *says)


def print_table(trees: Sequence[Tree], left_out: int) -> None:
    console = _console()
    _say_left_out(console, left_out)
    for tree in trees:
        console.print(f"[bold]{escape(_heading(tree))}[/]")
        console.print(f"[dim]{'ms':>9} {'event, service':<15}{'did':<12}{' '.join(_COLUMNS)}[/]")
        for line in _rows(tree, console.width):
            console.print(escape(line))
        for service, entry in tree.journaled:
            console.print(escape(f"{after_ms(tree, entry):>9.1f} {entry.type}"))
            console.print(escape(_row(service, entry.outcome)))
        console.print()


def _rows(tree: Tree, width: int) -> Iterator[str]:
    yield from _missing_rows(tree.gaps, 0)
    for depth, node in tree.everything():
        way, margin = node.way, "  " * depth
        amounts, after = telling(way.event.type, way.event.data), f"{node.after_ms:.1f}"
        for told in packed([f"{margin}{way.event.type}", amounts, _place(way.event)], width - 10, margin):
            yield f"{after:>9} {told}"
            after = ""
        yield _row(way.event.source, "decided", way.origin.hops if way.origin else ())
        for hearing in way.hearings:
            yield _row(hearing.service, hearing.outcome, hearing.hops)
        yield from _missing_rows(node.gaps, depth + 1)


def _row(service: str, did: str, hops: Sequence[Hop] = ()) -> str:
    told = {hop.name: figure(hop) for hop in hops}
    figures = " ".join(f"{told.get(name, ''):>{len(name)}}" for name in _COLUMNS)
    return f"{'':>9}   {service:<12} {did:<12}{figures}".rstrip()


def _missing_rows(gaps: Sequence[Gap], depth: int) -> Iterator[str]:
    for gap in gaps:
        yield f"{'':>9} {'  ' * depth}? {' or '.join(gap.expects) or 'nothing'}"
        yield _row(gap.service, gap.state)


def as_mermaid(trees: Sequence[Tree], left_out: int) -> str:
    """Draws a sequence diagram. Whatever is not plain text is escaped, so that no content breaks it."""
    lines = ["sequenceDiagram", "    participant client"]
    lines += [f"    participant {service}" for service in service_names()]

    def note(text: str, over: str = f"client,{service_names()[-1]}") -> None:
        lines.append(f"    Note over {over}: {_escaped(text)}")

    def missing(gap: Gap) -> None:
        note(f"{' or '.join(gap.expects) or gap.service} is {gap.state}: {_why(gap)}", gap.service)

    if left_out:
        note(_left_out(left_out))
    for tree in trees:
        note(_title(tree))
        if tree.asked and tree.service:
            lines.append(f"    client->>{tree.service}: {_escaped(tree.asked.type)}")
        for gap in tree.gaps:
            missing(gap)
        for _, node in tree.everything():
            event = node.way.event
            told = _escaped(f"{event.type} +{node.after_ms:.1f} ms")
            for hearing in node.way.hearings or ():
                arrow = "->>" if hearing.outcome == "applied" else "--x"
                did = "" if hearing.outcome == "applied" else _escaped(f", {hearing.outcome}")
                lines.append(f"    {event.source}{arrow}{hearing.service}: {told}{did}")
            if not node.way.hearings:
                lines.append(f"    {event.source}->>{event.source}: {told}")
            for gap in node.gaps:
                missing(gap)
        for service, entry in tree.journaled:
            source = SOURCE_OF_TYPE.get(entry.type, service)
            told = _escaped(f"{entry.type} +{after_ms(tree, entry):.1f} ms, {entry.outcome}")
            lines.append(f"    {source}->>{service}: {told}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Writes each special character by its number, as Mermaid takes it. A long error is cut."""
    told = shorten(text, _LONG, placeholder=" ...")
    return re.sub(r"[^A-Za-z0-9 .,+_()\[\]@/-]", lambda found: f"#{ord(found[0])};", told)


def as_json(id: str, trees: Sequence[Tree], left_out: int) -> str:
    return json.dumps(trace_as_dict(id, trees, left_out), indent=2, default=str)


def _title(tree: Tree) -> str:
    """Says what was asked, of whom, when, and what the flow is called."""
    return f"{_what(tree)}  {clock(tree.began_at.timestamp())}  flow {tree.flow}{_refused(tree)}"


def _heading(tree: Tree) -> str:
    """The same below each other, and whose it is: the key of its events, mostly a user."""
    began = clock(tree.began_at.timestamp())
    return f"{_what(tree)}  {began}\n  flow {tree.flow}\n  {whose(tree.key, whole=True)}{_refused(tree)}"


def _what(tree: Tree) -> str:
    return f"{tree.service} {tree.asked.type}" if tree.asked else "a flow whose request is not known"


def _refused(tree: Tree) -> str:
    asked = tree.asked
    if asked and asked.outcome != "applied":
        numbers = ", ".join(
            f"{name} {value}" for name, value in (asked.refusal or {}).items() if name != "type"
        )
        reason = (asked.refusal or {}).get("type", "")
        return f"\n  {asked.outcome} {reason} {numbers}".rstrip()
    return ""


def _why(gap: Gap) -> str:
    since = f"for {_span(gap.since_ms)}: " if gap.since_ms is not None else ""
    overdue = f"; overdue for {_span(gap.overdue_ms)}" if gap.overdue_ms is not None else ""
    return f"{since}{gap.says}{overdue}"


def _span(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.0f} s"


def _left_out(count: int) -> str:
    return f"{count} older flows are left out: --limit shows more"


def _say_left_out(console: Console, left_out: int) -> None:
    if left_out:
        console.print(f"{_left_out(left_out)}\n")


def _console() -> Console:
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    return console
