"""Finds what there is to tell about an id in a recording, which is read from end to end, twice."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from uuid import UUID

from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.codec import Record, TopicRecord, decode
from choreo.replay.sources.recording import Recording, size_of
from choreo.replay.sources.records import Item, JournalEntry, OutboxRecord
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent, event_in
from choreo.replay.trace.trace import Material, UnpublishedEvent, undecided, without_published


def find_recorded(
    recording: Recording,
    id: str,
    limit: int,
    consumed_types: Mapping[str, Collection[str]],
    progress: Callable[[int, int], None],
) -> Material | None:
    """Returns None where nothing in it has this id. Of a user, the `limit` newest flows. Raises `Broken`.

    `progress` hears how many items are read, and of how many.

    What a recording does not keep is not told: times of commits, and why an event is parked.
    """
    size = size_of(recording)
    flows, keys, left_out = _flows(_items(recording, lambda done: progress(done, 2 * size)), id, limit)
    if not flows:
        return None
    events: list[PublishedEvent] = []
    unpublished: list[UnpublishedEvent] = []
    entries: dict[str, list[JournalRow]] = {service: [] for service in recording.cut.services}
    now = datetime.fromtimestamp(0, UTC)
    for item in _items(recording, lambda done: progress(size + done, 2 * size)):
        match item:
            case JournalEntry():
                now = max(now, item.now)
                if item.key in keys:
                    entries[item.service].append(_entry(item))
            case TopicRecord():
                if _is_of(item.record, keys) and (event := event_in(item)) and event.flow in flows:
                    events.append(event)
            case OutboxRecord(record=record):
                if _is_of(record, keys) and (fact := decode(record)).correlation_id in flows:
                    unpublished.append(UnpublishedEvent.of(fact))
    waiting = undecided(events)
    return Material(
        flows=flows,
        events=events,
        journals={
            service: _journal(recording, found, consumed_types.get(service, ()), waiting.get(service, ()))
            for service, found in entries.items()
        },
        unpublished=without_published(unpublished, events),
        now=now,
        left_out=left_out,
    )


def _flows(items: Iterable[Item], id: str, limit: int) -> tuple[set[UUID], set[str], int]:
    """Returns the flows of whatever has this id, with their keys; of a key the newest, and how many more."""
    began: dict[UUID, datetime] = {}
    flows: set[UUID] = set()
    keys: set[str] = set()
    of_order: dict[str, set[UUID]] = {}
    for item in items:
        match item:
            case JournalEntry(correlation_id=UUID() as flow):
                if item.key == id:
                    began.setdefault(flow, item.now)
                    began[flow] = min(item.now, began[flow])
                elif id in (str(item.id), str(flow)):
                    flows.add(flow)
                    keys.add(item.key)
                if item.command and (order := item.command.get("order_id")):
                    of_order.setdefault(order, set()).add(flow)
            case TopicRecord(record=record) if _mentions(record, id.encode()) and (event := event_in(item)):
                if event.key != id and id in (str(event.id), *event.data.values()):
                    flows.add(event.flow)
                    keys.add(event.key)
    if began:
        flows, keys = set(sorted(began, key=lambda flow: began[flow])[-limit:]), {id}
    left_out = len(began) - len(flows) if began else 0
    for same in of_order.values():
        if same & flows:
            flows |= same
    return flows, keys, left_out


def _items(recording: Recording, progress: Callable[[int], None]) -> Iterator[Item]:
    done = 0
    for batch in recording.read():
        yield from batch
        progress(done := done + len(batch))


def _is_of(record: Record, keys: Collection[str]) -> bool:
    return (record.key or b"").decode(errors="replace") in keys


def _mentions(record: Record, id: bytes) -> bool:
    return id in (record.value or b"") or any(value == id for _, value in record.headers)


def _entry(item: JournalEntry) -> JournalRow:
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


def _journal(
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
