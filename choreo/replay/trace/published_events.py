"""Events as they lie in Kafka, and the order in which they are told."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class PublishedEvent:
    """An event as it lies in Kafka."""

    id: UUID
    type: str
    source: str
    key: str
    sequence: int
    """Its step number at its source, per key."""
    topic: str
    partition: int
    offset: int
    flow: UUID
    cause: UUID | None
    at: datetime
    """When it was decided."""
    appended_at: datetime | None
    """When Kafka took it, in whole milliseconds; None where the topic does not keep that."""
    data: dict[str, Any]


def occurrences(events: Iterable[PublishedEvent]) -> dict[UUID, list[PublishedEvent]]:
    """Returns where each event lies, the first offset first. Events are in the order they were decided in."""
    found: dict[UUID, list[PublishedEvent]] = {}
    for event in sorted(events, key=lambda event: (event.at, event.sequence, event.offset)):
        found.setdefault(event.id, []).append(event)
    return found


def in_causal_order(events: Iterable[PublishedEvent]) -> Iterator[tuple[int, PublishedEvent]]:
    """Yields each event after the one it follows from, with its depth; a repeated event once."""
    found = occurrences(events)
    ordered = [first for first, *_ in found.values()]

    def below(cause: UUID | None, depth: int) -> Iterator[tuple[int, PublishedEvent]]:
        for event in ordered:
            if (event.cause if event.cause in found else None) == cause:
                yield depth, event
                yield from below(event.id, depth + 1)

    return below(None, 0)


def event_in(record: TopicRecord) -> PublishedEvent | None:
    """Returns the event of a record; None where it is none that this program knows."""
    try:
        event = decode(record.record)
    except (UnknownType, Undecodable):
        return None
    return PublishedEvent(
        event.id,
        event.type,
        event.source,
        event.key,
        event.sequence,
        record.topic,
        record.partition,
        record.offset,
        event.correlation_id,
        event.causation_id,
        event.time,
        _EPOCH + timedelta(milliseconds=record.timestamp) if record.appended else None,
        event.data.model_dump(mode="json"),
    )
