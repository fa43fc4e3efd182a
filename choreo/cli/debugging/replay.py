"""`choreo replay`: step by step in the real handlers, with side effects impossible."""

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.chassis.registry import description_of
from choreo.chassis.source_lines import raised_at
from choreo.cli.debugging.row_formats import Paper, count_of_rows, print_today
from choreo.errors import HandlerMisbehaves, UsageError
from choreo.message.envelope import Event
from choreo.message.fact import Fact
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
from choreo.replay.engine.debugger import debug
from choreo.replay.engine.deciding_lines import decided_at
from choreo.replay.engine.expressions import (
    SURROUNDING,
    BadExpression,
    Expression,
    names_at,
    row_of,
    state_of,
)
from choreo.replay.engine.in_memory_service import refusal_as_dict
from choreo.replay.engine.recorded import Differs
from choreo.replay.engine.sandbox import no_side_effects, run_sandboxed
from choreo.replay.engine.walk import Ahead, Done, Walk
from choreo.replay.history.as_dict import differs_as_dict
from choreo.replay.history.moments import End, Moment
from choreo.replay.sources.rows import name_as_text, plain
from choreo.replay.sources.telling import shown, telling, whose

_SHOWN = 20
"""Rows of a table."""


def replay(
    source: Annotated[str, typer.Argument(metavar="FILE|live", help="A recording, or the running system.")],
    service: Annotated[str, typer.Option(help="Its name, as order.")],
    key: Annotated[str | None, typer.Option(help="Only the steps of this user: an id or a login.")] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT", help="Up to this time, id or place (order-events[0]@17); then the state."
        ),
    ] = None,
    break_: Annotated[
        str | None, typer.Option("--break", metavar="EXPR", help="Stop before the step where this is true.")
    ] = None,
    log: Annotated[str | None, typer.Option(metavar="EXPR", help="Print this at every step.")] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Where --break stops, debug the handlers.")] = False,
    today: Annotated[
        bool, typer.Option("--today", help="As today's code decides it, not as recorded.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each step.")] = False,
) -> None:
    """Take a service's inputs again, one by one, in today's handlers. Reads only; nothing is sent.

    What is printed is what was recorded; where today's handlers decide otherwise is marked with a !.

    Expressions are Python without builtins. They know type, id, key, service, topic, partition, offset, now,
    every field of the event's or command's data, state (what the handlers are given), after (what that is
    then) and decided (a list of facts).

    Example: choreo replay live --service billing --break 'type=="OrderCreated" and price>40000' --pdb
    """
    check_service(service)
    if pdb and break_ is None:
        raise UsageError("--pdb needs --break: it says where to begin.")
    if pdb and as_json:
        raise UsageError("choreo replay takes --pdb or --json, not both.")
    try:
        stop = Expression(break_, "--break") if break_ is not None else None
        told = Expression(log, "--log") if log is not None else None
    except BadExpression as error:
        raise UsageError(str(error)) from None
    printer = Printer(as_json=as_json, every=stop is None and told is None)
    file = None if source == "live" else Path(source)
    with reading():
        ahead = asyncio.run(_replay(file, service, key, until, stop, told, printer, today))
        if ahead is not None and pdb:
            debug(ahead.taken)


async def _replay(
    file: Path | None,
    name: str,
    key: str | None,
    until: str | None,
    stop: Expression | None,
    log: Expression | None,
    printer: "Printer",
    today: bool,
) -> Ahead | None:
    """Returns the input before which it stopped. By then all is closed: what is in memory is enough."""
    where = system(file)
    key = await key_of(where, key)
    async with opened(where, name, key, alone=not description_of(name).needs_all_keys) as source:
        moment = await moment_in(source, until, name, where) if until is not None else End()
        async with walking(source, described(source, name), key, today=today) as walk:
            stepping = Stepping(walk, moment, stop, log, printer)
            stopped = await stepping.run()
        if stopped is not None:
            ahead, done = stopped
            printer.stop(ahead, done)
            for lack in walk.lacks:
                typer.echo(f"choreo: before that, {lack}", err=True)
            return ahead
        check_reached(moment, walk, where)
        if until is not None:
            printer.state(walk, moment)
        printer.end(stepping)
        check_complete(walk)
        return None


@dataclass
class Stepping:
    walk: Walk[Any]
    until: Moment
    stop: Expression | None
    log: Expression | None
    printer: "Printer"
    types: Counter[str] = field(default_factory=Counter)
    """Of the inputs taken."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Why --break could not be evaluated."""

    async def run(self) -> tuple[Ahead, Done | None] | None:
        """Returns the input at which --break is true and what came of it, or None at the end."""
        async with aclosing(self.walk.inputs(parked=True)) as inputs:  # type: ignore[type-var]
            async for ahead in inputs:
                if not self.until.includes(ahead.entry):
                    continue
                done = None if ahead.parked else self.walk.take(ahead)
                names = names_at(ahead, done) if self.stop or self.log else {}
                if self._stops(ahead, names):
                    return ahead, done
                if ahead.parked:
                    self.printer.parked(ahead)
                    continue
                self.types[ahead.entry.type] += 1
                if self.log:
                    self.printer.log(ahead, done, *_evaluated(self.log, names))
                elif done is not None:
                    self.printer.step(ahead, done)
                if done is not None:
                    self.until.passed(ahead.entry, done.events)
                if self.until.over:
                    break
        return None

    def _stops(self, ahead: Ahead, names: dict[str, Any]) -> bool:
        if self.stop is None:
            return False
        value, error = _evaluated(self.stop, names)
        if error:
            self.unknown[f"{error} at {ahead.entry.type}"] += 1
        return bool(value)


def _evaluated(expression: Expression, names: dict[str, Any]) -> tuple[Any, str]:
    """Returns the value, or why there is none."""
    try:
        return expression.value(names), ""
    except HandlerMisbehaves:
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _as_json_has_it(value: Any) -> Any:
    """Returns the value, or its text where JSON cannot hold it."""
    try:
        json.dumps(value, default=str)
    except (TypeError, ValueError):
        return repr(value)
    return value


class Printer:
    """Prints for people, or a line of JSON for each thing. `every`: each step, too."""

    def __init__(self, *, as_json: bool, every: bool) -> None:
        self._json, self._every = as_json, every
        self._paper = Paper()

    def step(self, ahead: Ahead, done: Done) -> None:
        if not self._every:
            return
        if self._json:
            self._line("step", **_input(ahead), **_told(done))
            return
        self._paper.parts("", *_head(ahead))
        self._decision(ahead, done)

    def parked(self, ahead: Ahead) -> None:
        """Prints what today's code makes of it, at the point where it failed."""
        if not self._every:
            return
        tried = _tried(ahead)
        if self._json:
            self._line("parked", **_input(ahead), **_told(tried))
            return
        self._paper.parts("", *_head(ahead), "parked", style="red")
        self._decision(ahead, tried)

    def log(self, ahead: Ahead, done: Done | None, value: Any, error: str) -> None:
        if self._json:
            differs = differs_as_dict(done.differs if done else None)
            value = _as_json_has_it(value)
            self._line("log", **_input(ahead), value=value, error=error or None, differs=differs)
            return
        self._paper.parts("", *_head(ahead), error or repr(value), style="yellow" if error else "")
        if done and done.differs:
            self._differs(done.differs)

    def stop(self, ahead: Ahead, done: Done | None) -> None:
        """Prints the input, what its handlers are given, and what they decided."""
        told = state_of(ahead.taken.service, ahead.taken.state)
        came = done or _tried(ahead)
        if self._json:
            self._line("break", **_input(ahead), data=_data(ahead), state=told, **_told(came))
            return
        what = f"{'the parked ' if ahead.parked else ''}{ahead.entry.type or 'record'} {ahead.entry.id}"
        self._paper.line(f"--break is true before {what}", "bold")
        facts = _input(ahead) | {f"data.{name}": value for name, value in _data(ahead).items()}
        self._paper.columns([(name, str(value)) for name, value in facts.items() if value is not None])
        self._paper.line("state, as the handlers are given it", "cyan")
        for mapping in ahead.taken.service.store.mappings:
            held = told[mapping.field]
            rows = {"": held} if mapping.single and held else held or {}
            if not rows:
                self._paper.line(f"  {mapping.field}: none")
            for name, row in rows.items():
                self._paper.line(f"  {mapping.field} {name}".rstrip())
                self._paper.columns([(column, shown(value)) for column, value in row.items()])
        self._paper.line("decision", "cyan")
        self._decision(ahead, came)

    def state(self, walk: Walk[Any], moment: Moment) -> None:
        mappings = walk.service.store.mappings
        rows = {
            mapping.table.name: [
                row_of(mapping, row)
                for row in walk.in_memory.memory.rows(mapping).values()
                if walk.key in (None, str(getattr(row, mapping.key)))
            ]
            for mapping in mappings
        }
        if self._json:
            self._line("state", at=str(moment), tables=rows)
            return
        whose = f" of key {walk.key}" if walk.key else ""
        self._paper.line(f"state{whose} at {moment}", "bold")
        for mapping in mappings:
            self._paper.line(f"{mapping.table.name}: {count_of_rows(len(rows[mapping.table.name]))}", "cyan")
            for row in rows[mapping.table.name][: None if walk.key else _SHOWN]:
                name = name_as_text(tuple(row[column.name] for column in mapping.table.primary_key.columns))
                self._paper.line(f"  {mapping.table.name} {name}")
                self._paper.columns([(column, shown(value)) for column, value in row.items()])
            if not walk.key and (more := len(rows[mapping.table.name]) - _SHOWN) > 0:
                self._paper.line(f"  ... and {more} more: choose with --key, or print all with --json")

    def end(self, stepping: Stepping) -> None:
        steps, walk = stepping.types.total(), stepping.walk
        if self._json:
            unknown = [{"error": why, "steps": count} for why, count in stepping.unknown.most_common()]
            differ = len(walk.differs)
            self._line("end", steps=steps, types=stepping.types, break_errors=unknown, differ=differ)
            return
        print_today(walk)
        if stepping.stop is None:
            self._paper.line(f"{steps} steps", "dim")
            return
        seen = ", ".join(f"{type_} {count}" for type_, count in stepping.types.most_common())
        self._paper.line(f"--break was true at none of {steps} steps: {seen or 'there are none'}")
        for why, count in stepping.unknown.most_common(5):
            self._paper.line(f"  at {count} it could not be told: {why}", "yellow")

    def _decision(self, ahead: Ahead, came: "Done | str") -> None:
        if isinstance(came, str):
            self._paper.line(f"    {came}", "red")
            return
        for event in came.events:
            line = "" if came.differs else _source_line(ahead, event.data)
            told = telling(event.type, dict(event.data))
            self._paper.parts("    ", f"→ {event.type} {event.id}", told, line, style="green")
        if came.refusal is not None:
            numbers = ", ".join(f"{name}={value}" for name, value in came.refusal.items() if name != "type")
            line = "" if came.differs else _source_line(ahead, None)
            self._paper.parts("    ", f"→ {came.refusal['type']}({numbers})", line, style="yellow")
        if came.differs:
            self._differs(came.differs)

    def _differs(self, differs: Differs) -> None:
        at = f" at {differs.handler}" if differs.handler else ""
        self._paper.line(f"    ! {differs.recorded} recorded, {differs.today} today{at}", "red")

    def _line(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, **facts}, default=str), flush=True)


def _source_line(ahead: Ahead, fact: Fact | None) -> str:
    with no_side_effects():
        return decided_at(ahead.taken, fact) or ""


def _tried(ahead: Ahead) -> Done | str:
    """Returns what will come of it, or a sentence on what is raised."""
    outcome = run_sandboxed(ahead.taken)
    if isinstance(outcome, Exception):
        where = raised_at(outcome)
        return f"raises {outcome!r}{f' at {where}' if where else ''}"
    return Done(outcome.events, refusal_as_dict(outcome), (), outcome.state)


def _head(ahead: Ahead) -> tuple[str, ...]:
    """Says when, what with its amounts, where it lies, and whose it is."""
    entry, input = ahead.entry, ahead.taken.input
    told = telling(input.type, dict(input.data)) if isinstance(input, Event) else ""
    return str(plain(entry.now)), entry.type or "record", told, ahead.at, str(entry.id), whose(entry.key)


def _input(ahead: Ahead) -> dict[str, Any]:
    entry = ahead.entry
    return {
        "now": plain(entry.now),
        "type": entry.type or None,
        "id": str(entry.id),
        "key": entry.key,
        "at": ahead.at or None,
        "step": entry.step,
        **({"parked": True} if ahead.parked else {}),
    }


def _data(ahead: Ahead) -> dict[str, Any]:
    return {name: value for name, value in names_at(ahead).items() if name not in SURROUNDING}


def _told(came: Done | str) -> dict[str, Any]:
    if isinstance(came, str):
        return {"raises": came}
    return {
        "decided": [_event(event) for event in came.events],
        "refused": came.refusal,
        "differs": differs_as_dict(came.differs),
    }


def _event(event: Event[Any]) -> dict[str, Any]:
    return {"type": event.type, "id": str(event.id), "data": event.data.model_dump(mode="json")}
