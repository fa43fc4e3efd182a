"""Finds what there is to tell about an id in a recording, which is read from end to end, twice."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from uuid import UUID

from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.codec import Record, TopicRecord, decode
from choreo.replay.sources.recording import Recording, size_of
from choreo.replay.sources.records import Item, JournalEntry, OutboxRecord
from choreo.replay.trace.ids import IdsOf, Named, Wanted, named_in, the_one
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent, event_in
from choreo.replay.trace.trace import Material, UnpublishedEvent, undecided, without_published


def find_recorded(
    recording: Recording,
    ids: IdsOf,
    id: str,
    limit: int,
    consumed_types: Mapping[str, Collection[str]],
    progress: Callable[[int, int], None],
) -> Material | None:
    """Returns None where nothing in it has this id. Of a user, the `limit` newest flows.

    `progress` hears how many items are read, and of how many. Raises `Broken`, and `UsageError` where several
    have the id.

    What a recording does not keep is not told: times of commits, and why an event is parked.
    """
    size, wanted = size_of(recording), Wanted.of(id)
    named = the_one(named_in(items_of(recording, lambda done: progress(done, 2 * size)), ids, wanted), wanted)
    if not named:
        return None
    return material_recorded(
        recording,
        ids,
        lambda entries: _flows(entries, named, limit),
        {one.key for one in named},
        consumed_types,
        lambda done: progress(size + done, 2 * size),
    )


def material_recorded(
    recording: Recording,
    ids: IdsOf,
    flows_in: Callable[[Iterable[JournalRow]], tuple[set[UUID], int]],
    keys: Collection[str],
    consumed_types: Mapping[str, Collection[str]],
    progress: Callable[[int], None],
) -> Material:
    """Reads the recording once, for the flows that are chosen by all entries of these keys, with how many
    were left out. Takes in those that were asked together with them.
    """
    events: list[PublishedEvent] = []
    unpublished: list[UnpublishedEvent] = []
    entries: dict[str, list[JournalRow]] = {service: [] for service in recording.cut.services}
    asked: dict[tuple[str, str, str], set[UUID]] = {}
    """By service, what was asked about, and its id: in which flows."""
    now = datetime.fromtimestamp(0, UTC)
    for item in items_of(recording, progress):
        match item:
            case JournalEntry():
                now = max(now, item.now)
                if item.key in keys:
                    entries[item.service].append(row_of(item))
                    for about in _asked_about(item, ids):
                        asked.setdefault(about, set()).update(filter(None, [item.correlation_id]))
            case TopicRecord():
                if _is_of(item.record, keys) and (event := event_in(item)):
                    events.append(event)
            case OutboxRecord(record=record):
                if _is_of(record, keys):
                    unpublished.append(UnpublishedEvent.of(decode(record)))
    flows, left_out = flows_in([entry for found in entries.values() for entry in found])
    for together in asked.values():
        if together & flows:
            flows |= together
    events = [event for event in events if event.flow in flows]
    waiting = undecided(events)
    return Material(
        flows=flows,
        events=events,
        journals={
            service: journal_recorded(
                recording, found, consumed_types.get(service, ()), waiting.get(service, ())
            )
            for service, found in entries.items()
        },
        unpublished=without_published([fact for fact in unpublished if fact.flow in flows], events),
        now=now,
        left_out=left_out,
    )


def _flows(entries: Iterable[JournalRow], named: Iterable[Named], limit: int) -> tuple[set[UUID], int]:
    """Returns the flows of what has the id; of a key the newest, and how many more."""
    began: dict[UUID, datetime] = {}
    for entry in entries:
        if entry.flow:
            began[entry.flow] = min(entry.decided_at, began.get(entry.flow, entry.decided_at))
    flows, left_out = {one.flow for one in named if one.flow}, 0
    if any(one.flow is None for one in named):
        flows = set(sorted(began, key=lambda flow: began[flow])[-limit:])
        left_out = len(began) - len(flows)
    return flows, left_out


def _asked_about(entry: JournalEntry, ids: IdsOf) -> Iterator[tuple[str, str, str]]:
    """Yields what a command of this service is about, and which one."""
    for id in ids.get(entry.service, ()):
        if which := (entry.command or {}).get(id.in_commands):
            yield entry.service, id.what, which


def items_of(recording: Recording, progress: Callable[[int], None]) -> Iterator[Item]:
    done = 0
    for batch in recording.read():
        yield from batch
        progress(done := done + len(batch))


def _is_of(record: Record, keys: Collection[str]) -> bool:
    return (record.key or b"").decode(errors="replace") in keys


def row_of(item: JournalEntry) -> JournalRow:
    return JournalRow(
        id=item.id,
        key=item.key,
        step=item.step,
        kind=item.kind,
        type=item.type,
        topic=item.topic,
        partition=item.partition,
        offset=item.offset,
        outcome=item.outcome,
        received_at=item.received_at,
        decided_at=item.now,
        committed_at=None,
        flow=item.correlation_id,
        refusal=item.refusal,
    )


def journal_recorded(
    recording: Recording,
    entries: list[JournalRow],
    consumed_types: Collection[str],
    waiting: Collection[UUID],
) -> Journal:
    """How far it had read is not recorded: what was published before it was read, and what it heard."""
    sources = {SOURCE_OF_TYPE[type] for type in consumed_types}
    service_of = recording.cut.service_of
    read = {
        place: span.settled for place, span in recording.cut.spans.items() if service_of[place[0]] in sources
    }
    for entry in entries:
        if entry.topic is not None and entry.partition is not None and entry.offset is not None:
            place = entry.topic, entry.partition
            read[place] = max(entry.offset + 1, read.get(place, 0))
    applied = {entry.id for entry in entries if entry.outcome == "applied"}
    return Journal(entries, read, frozenset(applied.intersection(waiting)))
