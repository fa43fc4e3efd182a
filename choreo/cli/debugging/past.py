"""What `choreo state`, `blame` and `replay` share: where the past is read from, and how rows are shown."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import services
from choreo.chassis.service import Service
from choreo.chassis.settings import SERVICES
from choreo.chassis.transaction.state_store import TableMapping
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.message.codec import Undecodable, UnknownType, decode
from choreo.operations.reading.installation import Installation, find_installation
from choreo.progress import telling
from choreo.replay.engine.expressions import name_as_text
from choreo.replay.engine.sandbox import SideEffect
from choreo.replay.engine.walk import Walk, Write
from choreo.replay.history.history import Cause, Difference, written
from choreo.replay.history.moments import AfterId, AfterPlace, AtTime, Moment, NoMoment, moment_of, settled
from choreo.replay.sources.live import Live, open_live
from choreo.replay.sources.one_key import open_key, records_at
from choreo.replay.sources.recording import NotARecording, Recording, size_of
from choreo.replay.sources.records import Broken, Source, lacking
from choreo.replay.sources.rows import plain

_WIDTH = 100


# -- where it is read from ---------------------------------------------------------------------------


def check_service(name: str) -> None:
    if name not in SERVICES:
        raise UsageError(f"There is no service {name}: choose from {', '.join(SERVICES)}.")


@contextmanager
def reading() -> Iterator[None]:
    """Turns what reading raises into a sentence and an exit code."""
    try:
        yield
    except SideEffect as effect:
        typer.echo(f"choreo: {effect}", err=True)
        raise typer.Exit(1) from None
    except (NotARecording, NoMoment) as wrong:
        raise UsageError(str(wrong)) from None
    except Broken as broken:
        raise Incomplete(str(broken)) from None
    except (psycopg.Error, *LOG_UNREADABLE, OSError) as error:
        raise Unavailable(f"The past cannot be read: {str(error).splitlines()[0]}") from error


def whole(file: Path | None) -> AbstractAsyncContextManager[Source]:
    """A recording, or all of the running system."""
    if file is not None:
        return nullcontext(Recording(file))
    here = find_installation()
    return open_live(here.kafka, here.database_urls, here.settings)


@asynccontextmanager
async def opened(
    file: Path | None, name: str, key: str | None = None, *, alone: bool = True
) -> AsyncIterator[Source]:
    """A recording, or the running system as far as this service goes. `alone`: of this key nothing else."""
    if file is not None:
        yield recording_of(file, name, key)
        return
    here = find_installation()
    if key is not None and alone:
        described = here.service(name)
        async with open_key(here.kafka, here.database_urls[name], described, here.settings, key=key) as of:
            yield of
    else:
        async with of_service(here, name) as source:
            yield source


def recording_of(file: Path, name: str, key: str | None = None) -> Recording:
    recording = Recording(file)
    if name not in recording.cut.services:
        held = ", ".join(recording.cut.services)
        raise Incomplete(f"{file} has no journal of {name}: it has those of {held}.")
    if key is not None and recording.cut.keys is not None and key not in recording.cut.keys:
        raise Incomplete(f"{file} has {len(recording.cut.keys)} keys, and {key} is none of them.")
    return recording


@asynccontextmanager
async def of_service(here: Installation, name: str) -> AsyncIterator[Live]:
    """Its journal, and the topics it hears; nothing else is read."""
    async with open_live(here.kafka, {name: here.database_urls[name]}, here.settings) as live:
        heard = here.service(name).heard_topics(here.settings.topic_prefix)
        spans = {place: span for place, span in live.cut.spans.items() if place[0] in heard}
        live.cut = replace(live.cut, spans=spans)
        yield live


async def moment_in(source: Source, text: str, name: str, file: Path | None) -> Moment:
    """Raises `NoMoment`, and `Incomplete` for a time that a recording does not reach."""
    cut = source.cut
    moment = moment_of(text, datetime.now(UTC), cut.topic_prefix)
    if isinstance(moment, AtTime) and cut.until is not None and moment.time > cut.until:
        raise Incomplete(f"{file} ends at {plain(cut.until)}, before {moment}.")
    if file is not None or not isinstance(moment, AfterPlace) or cut.service_of.get(moment.topic) != name:
        return await settled(moment, source, name)
    place = moment.topic, moment.partition, moment.offset
    try:
        (record,) = await records_at(find_installation().kafka, [place])
        return AfterId(decode(record.record).id)
    except (ValueError, UnknownType, Undecodable):
        raise NoMoment(f"No event lies at {moment}.") from None


def described(source: Source, name: str) -> Service[Any]:
    """As today's code has it, with what of the settings decisions depend on."""
    return services(source.cut.settings)[name]


@asynccontextmanager
async def walking(source: Source, service: Service[Any], key: str | None = None) -> AsyncIterator[Walk[Any]]:
    """It says how far it is, where that takes long."""
    total = size_of(source)
    with telling() as tell:
        walk = Walk(source, service, key, lambda done: tell("replaying", done, total))
        walk.lacks += (await lacking(source, service.name)).values()
        yield walk


def check_complete(walk: Walk[Any]) -> None:
    """After everything was printed. Raises `Incomplete`."""
    if walk.lacks:
        more = f" (and {len(walk.lacks) - 1} more)" if len(walk.lacks) > 1 else ""
        raise Incomplete(f"{walk.service.name}: {walk.lacks[0]}{more}.")


def check_reached(moment: Moment, walk: Walk[Any], source: Source, file: Path | None) -> None:
    if moment.reached and (walk.key is None or walk.met):
        return
    check_complete(walk)
    if walk.key is not None and not walk.met:
        raise UsageError(f"The journal of {walk.service.name} has nothing of key {walk.key}.")
    key = f" of key {key}" if (key := walk.key) else ""
    says = f"{walk.service.name} has applied nothing{key} that is {moment}"
    if file is not None and not source.cut.is_whole:
        raise Incomplete(f"{says}, as far as {file} goes.")
    raise UsageError(f"{says}.")


# -- how it is shown ---------------------------------------------------------------------------------


class Paper:
    """For people: in colour on a terminal, plain elsewhere; only ids and commands may go beyond 100."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        told = escape(text)
        self._console.print(f"[{style}]{told}[/]" if style else told)

    def columns(self, told: Sequence[tuple[str, str]], style: str = "") -> None:
        """Names and values below each other."""
        width = max((len(name) for name, _ in told), default=0)
        for name, value in told:
            self.line(_cut_off(f"    {name:<{width}}  {value}"), style)

    def cause(self, cause: Cause | None) -> None:
        if cause is None:
            self.line("    by nothing in the journal: see `choreo verify`", "red")
            return
        self.line(f"    {cause.fact} {cause.fact_id}  {cause.handler}", "dim")
        if cause.fact_id != cause.id:
            self.line(f"    because of {cause.type} {cause.id} {cause.at}".rstrip(), "dim")

    def row(self, mapping: TableMapping, name: Any, row: Sequence[Any], cause: Cause) -> None:
        self.line(f"  {mapping.table.name} {name_as_text(name)}", "bold")
        told = zip((column.name for column in mapping.table.columns), row, strict=True)
        self.columns([(column, shown(value)) for column, value in told])
        self.cause(cause)

    def difference(self, difference: Difference) -> None:
        self._changed(difference)
        self.cause(difference.cause)

    def write(self, write: Write) -> None:
        self._changed(written(write))
        self.line(f"    {write.event.type} {write.event.id}  {write.case}", "dim")

    def _changed(self, difference: Difference) -> None:
        sign, style = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}[
            difference.change
        ]
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


def shown(value: Any) -> str:
    return "null" if value is None else str(plain(value)).replace("\n", "⏎")


def rows_told(count: int, one: str = "", more: str = "") -> str:
    return f"1 row {one}".rstrip() if count == 1 else f"{count} rows {more}".rstrip()


def _cut_off(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def cause_told(cause: Cause | None) -> dict[str, Any] | None:
    if cause is None:
        return None
    return {name: plain(value) for name, value in asdict(cause).items()}


def write_told(write: Write) -> dict[str, Any]:
    return difference_told(written(write)) | {"cause": {"fact": write.event.type, "handler": write.case}}


def difference_told(found: Difference) -> dict[str, Any]:
    return {
        "change": found.change,
        "table": found.table.name,
        "primary_key": name_as_text(found.name),
        "columns": {column: {"old": plain(old), "new": plain(new)} for column, old, new in found.columns},
        "cause": cause_told(found.cause),
    }


def row_told(mapping: TableMapping, row: Sequence[Any], cause: Cause | None) -> dict[str, Any]:
    columns = (column.name for column in mapping.table.columns)
    told = {name: plain(value) for name, value in zip(columns, row, strict=True)}
    return {"row": told, "cause": cause_told(cause)}
