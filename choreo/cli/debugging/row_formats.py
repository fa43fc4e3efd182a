"""How rows, their changes and their causes look for people."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from choreo.chassis.transaction.journal import CODE_VERSION
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.fact import Fact
from choreo.replay.engine.walk import Walk, Write
from choreo.replay.history.blame import RowChange
from choreo.replay.history.causes import Cause
from choreo.replay.history.state import Difference, difference_made_by
from choreo.replay.sources.rows import name_as_text, plain
from choreo.replay.sources.telling import shown, telling
from choreo.terminal import Console, fitting, packed

_WIDTH = 80
_SHORT = 40
_BRIEF = 20
"""A value of a new row on a line of history: ids and texts are longer."""
_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


class Paper:
    """Prints for people, in colour on a terminal. Only ids and commands may go beyond column 80."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        told = escape(fitting(text, sys.stdout))
        self._console.print(f"[{style}]{told}[/]" if style else told)

    def command(self, text: str) -> None:
        """Prints what is to be pasted, and so stays one line."""
        self._console.print(f"[dim]{escape(text)}[/]")

    def parts(self, indent: str, *parts: str, style: str = "") -> None:
        """Prints them beside each other, and those that column 80 has no room for below."""
        for line in packed(parts, _WIDTH - len(indent), "    "):
            self.line(f"{indent}{line}", style)

    def columns(self, told: Sequence[tuple[str, str]], style: str = "") -> None:
        """Prints names and values below each other."""
        width = max((len(name) for name, _ in told), default=0)
        for name, value in told:
            begin = f"    {name:<{width}}  "
            old, arrow, new = value.partition(" → ")
            if not arrow or len(begin) + len(value) <= _WIDTH:
                self.line(_cut_off(f"{begin}{value}"), style)
            else:
                self.line(_cut_off(f"{begin}{old}"), style)
                self.line(_cut_off(f"{'':<{len(begin) - 2}}→ {new}"), style)

    def cause(self, cause: Cause | None) -> None:
        if cause is None:
            self.line("    nothing in the journal gives it that today: see `choreo verify`", "red")
            return
        self.parts("    ", f"{cause.fact} {cause.fact_id}", cause.handler, style="dim")
        if cause.fact_id != cause.id:
            self.parts("    ", f"because of {cause.type} {cause.id}", cause.at, style="dim")

    def row(self, mapping: TableMapping, name: Any, row: Sequence[Any], cause: Cause) -> None:
        self.line(f"  {mapping.table.name} {name_as_text(name)}", "bold")
        told = zip((column.name for column in mapping.table.columns), row, strict=True)
        self.columns([(column, shown(value)) for column, value in told])
        self.cause(cause)

    def difference(self, difference: Difference) -> None:
        self._changed(difference)
        self.cause(difference.cause)

    def write(self, write: Write) -> None:
        self._changed(difference_made_by(write))
        self.parts("    ", f"{write.event.type} {write.event.id}", write.case, style="dim")

    def row_change(self, change: RowChange) -> None:
        """Prints when, by which fact, what it did to the row, and the line; on one line."""
        difference = difference_made_by(change.write)
        columns = [
            (name, _cut_off(shown(old), _SHORT), _cut_off(shown(new), _SHORT))
            for name, old, new in difference.columns
        ]
        if difference.change == "added":
            told = ", ".join(f"{name} {new}" for name, _, new in columns if len(new) <= _BRIEF)
        else:
            told = ", ".join(f"{name} {old} → {new}" for name, old, new in columns)
        row = f"{_SIGNS[difference.change][0]} {difference.table.name} {name_as_text(difference.name)}"
        self.line(f"{when(change.cause, change.write.event.data)}  {row}  {told}  {change.line}")

    def _changed(self, difference: Difference) -> None:
        sign, style = _SIGNS[difference.change]
        self.line(f"{sign} {difference.table.name} {name_as_text(difference.name)}", style)
        told = []
        for column, old, new in difference.columns:
            match difference.change:
                case "added":
                    told.append((column, shown(new)))
                case "removed":
                    told.append((column, shown(old)))
                case "changed":
                    told.append((column, f"{shown(old)} → {shown(new)}"))
        self.columns(told)


def when(cause: Cause, fact: Fact) -> str:
    """Writes the beginning of a line of history: the time, and the fact with its amounts."""
    told = telling(cause.fact, dict(fact))
    return f"{plain(cause.time)}  {cause.fact} {str(cause.fact_id)[:8]}{f' ({told})' if told else ''}"


def count_of_rows(count: int, one: str = "", more: str = "") -> str:
    return f"1 row {one}".rstrip() if count == 1 else f"{count} rows {more}".rstrip()


def _cut_off(text: str, width: int = _WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def print_today(walk: Walk[Any]) -> None:
    """Says where today's code would have decided otherwise, and of what code the decisions are."""
    paper = Paper()
    if walk.differs:
        more = f" ({len(walk.differs)} steps in all)" if len(walk.differs) > 1 else ""
        paper.line(f"! {walk.differs[0].says}{more}", "red")
    for place, text in walk.printed.items():
        paper.line(f"! {place} {text!r}", "red")
    if others := walk.versions - {CODE_VERSION}:
        paper.line(f"decided by {', '.join(sorted(others))}; rows are what today's evolve makes of it", "dim")
