"""How a played story is shown: to people as text, to programs as JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from email.message import EmailMessage
from typing import Any

from rich.markup import escape

from choreo.demo.timeline import Asked
from choreo.replay.trace.as_dict import clock, way_as_dict
from choreo.replay.trace.hops import HOPS, WHOLE, Hearing, Hop, Way
from choreo.terminal import Console, packed

_UUID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BEGINNING = r"\1…"

_GOOD = ("applied", "duplicate")
LABELS = 25
"""Columns of who did what with an event."""
_UNKNOWN = "\N{EN DASH}"


class JsonScreen:
    """One JSON object per line; `kind` says what it is about."""

    def legend(self) -> None:
        self._print("legend", hops=HOPS)

    def title(self, number: int, text: str) -> None:
        self._print("scene", number=number, title=text)

    def request(self, asked: Asked) -> None:
        told = asdict(asked) | {"at": clock(asked.at), "ms": round(asked.ms, 1)}
        self._print("request", **(told | {"flow": str(asked.flow) if asked.flow else None}))

    def event(self, way: Way, depth: int, because: str, after_ms: float) -> None:
        told = {"depth": depth, "because_of": because, "after_ms": round(after_ms, 1)}
        self._print("event", **way_as_dict(way), **told)

    def holds(self, what: str) -> None:
        self._print("expectation", says=what, holds=True)

    def mail(self, mail: EmailMessage) -> None:
        told = {name.lower().replace("-", "_"): mail[name] for name in ("To", "Subject", "Message-ID")}
        self._print("mail", **told, text=mail.get_content())

    def note(self, text: str) -> None:
        self._print("note", says=text)

    def end(self, text: str, *, held: bool) -> None:
        self._print("end", says=text, holds=held)

    def _print(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, **facts}, default=str), flush=True)


class TextScreen:
    """For people: in colour on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def legend(self) -> None:
        self._console.print(
            "\nBeneath each event: what the services did with it, and how long it took, in ms."
        )
        for name, meaning in HOPS.items():
            self._console.print(f"  [cyan]{name:<12}[/] {meaning}")
        self._console.print(
            f"  [cyan]{_UNKNOWN:<12}[/] not known: another Kafka or Postgres need not keep it"
        )

    def title(self, number: int, text: str) -> None:
        self._console.print(f"\n[bold]{number}. {escape(text)}[/]")

    def request(self, asked: Asked) -> None:
        colour = "green" if asked.status < 400 else "yellow"
        again = f"  (asked {asked.times} times)" if asked.times > 1 else ""
        what = escape(f"{asked.service:<12} {asked.method:<5}{_UUID.sub(_BEGINNING, asked.path)}")
        self._console.print(f"  {what:<46} [{colour}]{asked.status}[/] {asked.ms:7.1f} ms{again}")

    def event(self, way: Way, depth: int, because: str, after_ms: float) -> None:
        event, margin = way.event, "   " * depth
        name = f"{margin}└─ {event.type}"
        place = escape(f"{event.topic}[{event.partition}] @{event.offset}")
        self._console.print(
            f"    [cyan]{name:<28}[/] {place:<28} +{after_ms:6.1f} ms  [dim]because of {escape(because)}[/]"
        )
        print_beneath(self._console, way, margin)

    def holds(self, what: str) -> None:
        self._console.print(f"    [green]✓[/] [dim]{escape(what)}[/]")

    def mail(self, mail: EmailMessage) -> None:
        self._console.print(f"\n  [bold]Mail to {escape(mail['To'])}: {escape(mail['Subject'])}[/]")
        for line in mail.get_content().splitlines():
            self._console.print(f"    {escape(line)}")

    def note(self, text: str) -> None:
        self._console.print(escape(text))

    def end(self, text: str, *, held: bool) -> None:
        self._console.print(f"\n[bold {'green' if held else 'red'}]{escape(text)}[/]")


def print_beneath(console: Console, way: Way, margin: str) -> None:
    """What the services did with it. Nothing where no journal was read."""
    if way.origin is None:
        return
    print_line(console, margin, way.origin.service, "decided", *_in_columns(way.origin.hops))
    hearers = [hearing for hearing in way.hearings if hearing.outcome != "skipped"]
    for hearing in hearers:
        print_line(console, margin, hearing.service, hearing.outcome, *_said(hearing))
    if not hearers:
        console.print(f"    {margin}   [dim]nobody else hears it[/]")


def print_line(console: Console, margin: str, service: str, did: str, *parts: str) -> None:
    """Parts that the console has no room for go below, unless it lets lines run on."""
    colour = "dim" if did in ("decided", *_GOOD) else "yellow"
    begin = f"    {margin}   "
    room = 1000 if console.soft_wrap else console.width - len(begin) - LABELS
    first, *rest = packed(parts, room) or [""]
    console.print(f"{begin}[dim]{service:<12}[/] [{colour}]{did:<12}[/][dim]{escape(first)}[/]")
    for line in rest:
        console.print(f"{begin}{'':<{LABELS}}[dim]{escape(line)}[/]")


def _said(hearing: Hearing) -> Sequence[str]:
    match hearing.outcome:
        case "duplicate":
            return [f"it lies again at @{hearing.offset}"]
        case "unread":
            return [f"it has not read as far as @{hearing.offset} yet"]
    then = [f"→ {', '.join(hearing.leads_to)}"] if hearing.leads_to else []
    return [*_in_columns(hearing.hops), *then]


def _in_columns(hops: tuple[Hop, ...]) -> Sequence[str]:
    return [f"{hop.name} {figure(hop):>5}" for hop in hops]


def figure(hop: Hop) -> str:
    """With no more places than were measured."""
    least = 1 if hop.name in WHOLE else 0.1
    if hop.ms is None:
        return _UNKNOWN
    if hop.ms < least:
        return f"<{least}"
    return f"{hop.ms:.0f}" if hop.name in WHOLE else f"{hop.ms:.1f}"


Screen = JsonScreen | TextScreen
