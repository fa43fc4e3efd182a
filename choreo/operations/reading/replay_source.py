"""Where verbs that look at the past read from: a recording, or the running system."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import service_names, services
from choreo.chassis.service import Service
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.message.catalog import topic_of
from choreo.message.codec import Undecodable, UnknownType, decode
from choreo.operations.reading.installation import Installation, find_installation
from choreo.progress import telling
from choreo.replay.engine.walk import Walk
from choreo.replay.history.moments import AfterId, AfterPlace, AtTime, Moment, NoMoment, moment_of, settled
from choreo.replay.sources.live import About, Connection, Live, keys_since, open_live
from choreo.replay.sources.one_key import open_key, records_at
from choreo.replay.sources.recording import NotARecording, Recording, size_of
from choreo.replay.sources.records import Broken, JournalEntry, Source, lacking
from choreo.replay.sources.rows import plain
from choreo.replay.trace.ids import Named, Wanted, named_in, named_live, the_one

System = Installation | Recording


def check_service(name: str) -> None:
    if name not in service_names():
        raise UsageError(f"There is no service {name}: choose from {', '.join(service_names())}.")


@contextmanager
def reading() -> Iterator[None]:
    """Turns what reading raises into a sentence and an exit code."""
    try:
        yield
    except (NotARecording, NoMoment) as wrong:
        raise UsageError(str(wrong)) from None
    except Broken as broken:
        raise Incomplete(str(broken)) from None
    except (psycopg.Error, *LOG_UNREADABLE, OSError) as error:
        raise Unavailable(f"The past cannot be read: {str(error).splitlines()[0]}") from error


def whole(file: Path | None) -> AbstractAsyncContextManager[Source]:
    """Opens a recording, or all of the running system."""
    return asked(file, None, None, None)


def asked(
    file: Path | None, name: str | None, key: str | None, since: datetime | None
) -> AbstractAsyncContextManager[Source]:
    """Opens what it takes to tell of one service, of a key, or of what was decided since a time."""

    async def about(conns: Mapping[str, Connection]) -> Collection[str]:
        if key is not None:
            return {key}
        return await keys_since(conns, since) if since else ()

    some = key is not None or since is not None
    if file is not None:
        recording = Recording(file)
        return nullcontext(
            Recording(file, {key} if key else _keys_since(recording, since)) if some else recording
        )
    here = find_installation()
    if name is not None:
        return of_service(here, name, about if some else None)
    return open_live(
        here.kafka,
        here.database_urls,
        here.settings,
        about=about if some else None,
        partition_of=here.partition_of,
    )


def _keys_since(recording: Recording, since: datetime | None) -> set[str]:
    items = (item for batch in recording.read() for item in batch)
    return {item.key for item in items if isinstance(item, JournalEntry) and since and item.now >= since}


@asynccontextmanager
async def opened(
    where: System, name: str, key: str | None = None, *, alone: bool = True
) -> AsyncIterator[Source]:
    """Opens of a running system what this service heard and did; a recording is read as it is. `alone`: only
    this key.
    """
    if isinstance(where, Recording):
        check_holds(where, name, key)
        yield where
    elif key is not None and alone:
        async with open_key(
            where.kafka,
            where.database_urls[name],
            where.service(name),
            where.settings,
            partition_of=where.partition_of,
            key=key,
        ) as of:
            yield of
    else:
        async with of_service(where, name) as source:
            yield source


def check_holds(recording: Recording, name: str, key: str | None = None) -> None:
    """Raises `Incomplete` where the recording has nothing of the service, or of the key."""
    cut = recording.cut
    if name not in cut.services:
        held = ", ".join(cut.services)
        raise Incomplete(f"{recording.path} has no journal of {name}: it has those of {held}.")
    if key is not None and cut.keys is not None and key not in cut.keys:
        raise Incomplete(f"{recording.path} has {len(cut.keys)} keys, and {key} is none of them.")


@asynccontextmanager
async def of_service(here: Installation, name: str, about: About | None = None) -> AsyncIterator[Live]:
    """Opens its journal, its own topic and those it hears; nothing else is read."""
    urls = {name: here.database_urls[name]}
    live_of = open_live(here.kafka, urls, here.settings, about=about, partition_of=here.partition_of)
    async with live_of as live:
        prefix = here.settings.topic_prefix
        topics = {prefix + topic_of(name), *here.service(name).heard_topics(prefix)}
        spans = {place: span for place, span in live.cut.spans.items() if place[0] in topics}
        live.cut = replace(live.cut, spans=spans)
        yield live


def system(file: Path | None) -> System:
    return Recording(file) if file else find_installation()


async def key_in(where: System, text: str) -> str:
    """Returns the key that somebody means by an id or a name. Raises `UsageError` where nothing has it."""
    keys = sorted({one.key for one in await _named(text, where)})
    if len(keys) != 1:
        raise UsageError(
            f"{text} is about several keys: {', '.join(keys)}."
            if keys
            else f"Nothing has the id {text.strip()}."
        )
    return keys[0]


async def key_of(where: System, text: str | None) -> str | None:
    return None if text is None else await key_in(where, text)


async def _named(text: str, where: System) -> list[Named]:
    wanted = Wanted.of(text)
    if isinstance(where, Installation):
        ids = {name: where.service(name).ids for name in where.database_urls}
        return the_one(await named_live(where.database_urls, ids, wanted), wanted)
    ids = {name: service.ids for name, service in services(where.cut.settings).items()}
    found: list[Named] = []
    for one in named_in((item for batch in where.read() for item in batch), ids, wanted):
        found.append(one)
        if wanted.first == wanted.last and one.key == one.id:
            break  # a key it is, written out: nothing else can be meant
    return the_one(found, wanted)


async def moment_in(source: Source, text: str, name: str, where: System) -> Moment:
    """Reads a moment as somebody writes it. Raises `NoMoment`, and `Incomplete` after a recording's end."""
    cut = source.cut
    if Wanted.of(text).is_cut_short:
        text = next((one.id for one in await _named(text, where)), text)
    moment = moment_of(text.strip(), datetime.now(UTC), cut.topic_prefix)
    if not isinstance(where, Recording):
        return await _moment_live(where, moment, source, name)
    if isinstance(moment, AtTime) and cut.until is not None and moment.time > cut.until:
        raise Incomplete(f"{where.path} ends at {plain(cut.until)}, before {moment}.")
    return await settled(moment, source, name)


async def _moment_live(here: Installation, moment: Moment, source: Source, name: str) -> Moment:
    """Of a key's source there is only what it heard, so what lies in its own topic is looked up there."""
    if not isinstance(moment, AfterPlace) or source.cut.service_of.get(moment.topic) != name:
        return await settled(moment, source, name)
    place = moment.topic, moment.partition, moment.offset
    try:
        (record,) = await records_at(here.kafka, [place])
        return AfterId(decode(record.record).id)
    except (ValueError, UnknownType, Undecodable):
        raise NoMoment(f"No event lies at {moment}.") from None


def described(source: Source, name: str) -> Service[Any]:
    """Returns it as today's code has it, with those settings that decisions depend on."""
    return services(source.cut.settings)[name]


@asynccontextmanager
async def walking(
    source: Source, service: Service[Any], key: str | None = None, *, today: bool = False
) -> AsyncIterator[Walk[Any]]:
    """Yields a walk that says how far it is, where that takes long."""
    total = 2 * size_of(source)  # once for what was decided, once for all of it
    with telling() as tell:
        walk = Walk(source, service, key, lambda done: tell("replaying", done, total), today=today)
        walk.lacks += (await lacking(source, service.name)).values()
        yield walk


def check_complete(walk: Walk[Any]) -> None:
    """Raises `Incomplete`; to be called after everything was printed."""
    if walk.lacks:
        more = f" (and {len(walk.lacks) - 1} more)" if len(walk.lacks) > 1 else ""
        raise Incomplete(f"{walk.service.name}: {walk.lacks[0]}{more}.")


def check_reached(moment: Moment, walk: Walk[Any], where: System) -> None:
    if moment.reached and (walk.key is None or walk.met):
        return
    check_complete(walk)
    if walk.key is not None and not walk.met:
        raise UsageError(f"The journal of {walk.service.name} has nothing of key {walk.key}.")
    key = f" of key {key}" if (key := walk.key) else ""
    says = f"{walk.service.name} has applied nothing{key} that is {moment}"
    if isinstance(where, Recording) and not where.cut.is_whole:
        raise Incomplete(f"{says}, as far as {where.path} goes.")
    raise UsageError(f"{says}.")
