"""Flows, in the running system or in a recording: those that an id is about, and the newest."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from choreo.chassis import clock
from choreo.chassis.database.connection import Connection
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.errors import UsageError
from choreo.message.codec import TopicRecord
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import System
from choreo.progress import Tell
from choreo.replay.history.moments import AtTime, moment_of, place_of
from choreo.replay.sources.one_key import records_at
from choreo.replay.sources.recording import Recording, size_of
from choreo.replay.trace.find import find, material_of, sessions
from choreo.replay.trace.find_recorded import find_recorded, items_of, material_recorded
from choreo.replay.trace.flows import (
    MOST_LOOKED_AT,
    Began,
    FlowFilter,
    Listed,
    listed,
    newest,
    newest_recorded,
)
from choreo.replay.trace.ids import IdsOf
from choreo.replay.trace.published_events import event_in
from choreo.replay.trace.trace import Material, Tree, trees
from choreo.styles.composition import has_kafka

_PAGE = 50
"""Flows of a running system that are looked at together."""


def unheard(what: str, done: int, total: int) -> None:
    """Takes what is told of progress, where nobody wants to know."""


async def traced(where: System, id: str, limit: int = 20, tell: Tell = unheard) -> tuple[list[Tree], int]:
    """Returns the trees of what has this id, oldest first, and how many flows were left out."""
    if isinstance(where, Installation):
        material = await _found_live(where, id, limit, tell)
    else:
        material = _found_recorded(where, id, limit, tell)
    return (_trees(material, settings_of(where)), material.left_out) if material else ([], 0)


async def flows(
    where: System, filter: FlowFilter, limit: int, *, of: str | None = None, tell: Tell = unheard
) -> Listed:
    """Returns those that are wanted, the newest first: of all, or of what has an id.

    Raises `UsageError` where nothing has it, or several have.
    """
    if of is not None:
        found, left_out = await traced(where, of, MOST_LOOKED_AT, tell)
        if not found:
            raise UsageError(f"Nothing has the id {of}.")
        newest_first = [tree for tree in reversed(found) if filter.includes(tree)]
        rest = newest_first[limit - 1].began_at if len(newest_first) > limit else None
        return Listed(newest_first[:limit], len(found), rest or (found[0].began_at if left_out else None))
    if isinstance(where, Installation):
        return await _flows_live(where, filter, limit, tell)
    return await _flows_recorded(where, filter, limit, tell)


def time_of(text: str) -> datetime:
    """Reads a time, or one ago. Raises `UsageError`, `NoMoment`."""
    moment = moment_of(text.strip(), clock.now())
    if not isinstance(moment, AtTime):
        raise UsageError(f"{text} is no time: give one like 2030-01-31T09:00:00Z, or -5m.")
    return moment.time


async def _found_live(installation: Installation, id: str, limit: int, tell: Tell) -> Material | None:
    settings = installation.settings
    if place := place_of(id, settings.topic_prefix):
        found = await records_at(installation.kafka, [(place.topic, place.partition, place.offset)])
        id = _flow_of(found) or id
    return await find(
        installation.kafka if has_kafka(installation.style) else None,
        installation.database_urls,
        settings,
        installation.partition_of,
        _ids(settings),
        id,
        limit,
        tell,
    )


async def look_up(
    installation: Installation, conns: Mapping[str, Connection], flows: Collection[UUID], tell: Tell = unheard
) -> Material:
    """Returns all that is known of these flows in the running system, and of those asked together with them.

    `conns` are `sessions`. Raises psycopg.Error, `Broken`, and what is in `LOG_UNREADABLE`.
    """
    return await material_of(
        installation.kafka if has_kafka(installation.style) else None,
        conns,
        installation.settings,
        installation.partition_of,
        _ids(installation.settings),
        flows,
        partial(tell, "looking up"),
    )


def _found_recorded(recording: Recording, id: str, limit: int, tell: Tell) -> Material | None:
    settings = recording.cut.settings
    if place := place_of(id, settings.topic_prefix):
        items = (item for batch in recording.read() for item in batch)
        there = [item for item in items if isinstance(item, TopicRecord) and item.at == str(place)]
        id = _flow_of(there) or id
    progress = partial(tell, "reading")
    return find_recorded(recording, _ids(settings), id, limit, consumed_types(settings), progress)


async def _flows_live(installation: Installation, filter: FlowFilter, limit: int, tell: Tell) -> Listed:
    settings = installation.settings
    async with sessions(installation.database_urls) as conns:

        async def trees_of(page: Sequence[Began]) -> list[Tree]:
            material = await look_up(installation, conns, {one.flow for one in page}, tell)
            return _trees(material, settings)

        pages = newest([*conns.values()], filter.until, min(limit + 1, _PAGE))
        return await listed(pages, trees_of, filter, limit)


async def _flows_recorded(recording: Recording, filter: FlowFilter, limit: int, tell: Tell) -> Listed:
    settings, size = recording.cut.settings, size_of(recording)
    begun = newest_recorded(items_of(recording, lambda done: tell("reading", done, 2 * size)), filter)

    async def one_page() -> AsyncIterator[Sequence[Began]]:
        yield begun

    async def trees_of(page: Sequence[Began]) -> list[Tree]:
        wanted = {one.flow for one in page}
        material = material_recorded(
            recording,
            _ids(settings),
            lambda entries: (set(wanted), 0),
            {one.key for one in page},
            consumed_types(settings),
            lambda done: tell("reading", size + done, 2 * size),
        )
        return _trees(material, settings)

    return await listed(one_page(), trees_of, filter, limit)


def _flow_of(records: Sequence[TopicRecord]) -> str | None:
    """Returns the flow of the event that lies there; None where none does."""
    events = [event for record in records if (event := event_in(record))]
    return str(events[0].flow) if events else None


def _trees(material: Material, settings: Settings) -> list[Tree]:
    return trees(material, consumed_types(settings))


def settings_of(where: System) -> Settings:
    return where.settings if isinstance(where, Installation) else where.cut.settings


def _ids(settings: Settings) -> IdsOf:
    return {name: service.ids for name, service in services(settings).items()}


def consumed_types(settings: Settings) -> dict[str, Collection[str]]:
    """Returns, by service, the types of the facts it hears."""
    return {
        name: {fact.__name__ for fact in service.consumes} for name, service in services(settings).items()
    }
