"""Records as they lie in a topic, and what every service did with each.

Of a running system only a part of the topic is read: from an offset on, or from its end back. Nothing is
written, no group joined, nothing committed.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from uuid import UUID

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import describe_retrying
from choreo.chassis.transaction.positions import TopicPartition
from choreo.errors import UsageError
from choreo.message.codec import Record, TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import derived_id
from choreo.replay.sources.live import read_spans
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import Cut, JournalEntry, Span
from choreo.replay.trace.find import sessions
from choreo.replay.trace.find_recorded import items_of, journal_recorded, row_of
from choreo.replay.trace.hops import Hearing, Origin, ways
from choreo.replay.trace.journals import Journal, JournalRow, journal_of
from choreo.replay.trace.published_events import PublishedEvent, event_in

MOST_LOOKED_AT = 20_000
"""So many records are looked through at most for those that are wanted."""
Read = Callable[[dict[TopicPartition, Span]], Awaitable[list[TopicRecord]]]

_SOME = 2_000
"""So many at first."""
_PLACE = re.compile(r"([\w.-]+?)(?:\[(\d{1,9})\](?:@(\d{1,18}))?)?")


@dataclass(frozen=True, slots=True)
class Place:
    """A topic, a partition of it, or an offset there."""

    topic: str
    partition: int | None
    offset: int | None

    @staticmethod
    def of(text: str, topics: Sequence[str], prefix: str) -> "Place":
        """Reads `order-events`, `order-events[3]` or `order-events[3]@120`. The prefix may be left out.

        Raises `UsageError`.
        """
        found = _PLACE.fullmatch(text.strip())
        topic, *numbers = found.groups() if found else ("", None, None)
        partition, offset = (None if number is None else int(number) for number in numbers)
        topic = topic if topic in topics else f"{prefix}{topic}"
        if topic not in topics:
            raise UsageError(
                f"{text} is no place: give a topic ({', '.join(topics)}), one of its partitions "
                f"({topics[0]}[0]) or a place there ({topics[0]}[0]@17)."
            )
        return Place(topic, partition, offset)


def header_of(text: str) -> tuple[str, str]:
    """Reads `ce_type=OrderCreated`. Raises `UsageError`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is no header: give NAME=VALUE, such as ce_type=OrderCreated.")
    return name, value


@dataclass(frozen=True, kw_only=True)
class RecordFilter:
    key: str | None = None
    type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def wants_all(self) -> bool:
        return self == RecordFilter()

    def includes(self, record: Record) -> bool:
        return (
            (self.key is None or record.key == self.key.encode())
            and (self.type is None or type_in(record) == self.type.encode())
            and all((name, value.encode()) in record.headers for name, value in self.headers.items())
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """What a service did with a record."""

    hearing: Hearing
    entry: JournalRow | None
    """None where its journal has nothing of it."""


@dataclass(frozen=True, slots=True)
class RecordRead:
    record: TopicRecord
    event: PublishedEvent | None
    not_an_event: str
    """Why it is none; empty where it is one."""
    origin: Origin | None
    heard: Sequence[Heard]


@dataclass(frozen=True)
class LogPage:
    records: Sequence[TopicRecord]
    """Of one partition in the order of offsets, of several in the order of time."""
    looked_at: int
    """How many records, wanted or not."""
    ends: Mapping[TopicPartition, Span]
    """What there is of each partition that was looked at."""

    @property
    def older(self) -> str | None:
        """Returns from where to read for the page before, where it is of one partition."""
        match [*self.ends.items()], self.records:
            case [((topic, partition), span)], [first, *_] if first.offset > span.first:
                return f"{topic}[{partition}]@{max(span.first, first.offset - len(self.records))}"
        return None

    @property
    def newer(self) -> str | None:
        match [*self.ends.items()], self.records:
            case [((topic, partition), span)], [*_, last] if last.offset + 1 < span.end:
                return f"{topic}[{partition}]@{last.offset + 1}"
        return None


async def page_of(
    access: KafkaAccess,
    place: Place,
    filter: RecordFilter,
    limit: int,
    partition_of: Callable[[str], int],
    prefix: str,
) -> LogPage:
    """Reads so many records from the place on, or the newest.

    Raises what is in `LOG_UNREADABLE`, and `Broken`.
    """
    logs = await describe_retrying(access, [place.topic])
    partition = place.partition
    if partition is None and filter.key is not None:
        partition = partition_of(filter.key)
    ends = {
        at: Span(log.earliest, log.earliest, log.latest)
        for at, log in logs.items()
        if partition in (None, at[1])
    }
    if not ends:
        raise UsageError(f"{place.topic} has {len(logs)} partitions, and {partition} is none of them.")
    read = partial(_read, access, prefix)
    if place.offset is None:
        return await _newest(read, ends, filter, limit)
    return await _from(read, ends, place.offset, filter, limit)


async def _from(
    read: Read, ends: Mapping[TopicPartition, Span], offset: int, filter: RecordFilter, limit: int
) -> LogPage:
    ((place, span),) = ends.items()
    found: list[TopicRecord] = []
    looked_at, begin, size = 0, max(offset, span.first), limit if filter.wants_all else _SOME
    while begin < span.end and len(found) < limit and looked_at < MOST_LOOKED_AT:
        end = min(span.end, begin + size)
        records = await read({place: Span(begin, begin, end)})
        looked_at += len(records)
        found += [one for one in records if filter.includes(one.record)]
        begin, size = end, MOST_LOOKED_AT - _SOME
    return LogPage(found[:limit], looked_at, ends)


async def _newest(
    read: Read, ends: Mapping[TopicPartition, Span], filter: RecordFilter, limit: int
) -> LogPage:
    found: list[TopicRecord] = []
    looked_at, size = 0, limit if filter.wants_all else max(1, _SOME // len(ends))
    until = {place: span.end for place, span in ends.items()}
    while len(found) < limit and looked_at < MOST_LOOKED_AT:
        spans = {
            place: Span(begin, begin, end)
            for place, end in until.items()
            if end > (begin := max(ends[place].first, end - size))
        }
        if not spans:
            break
        records = await read(spans)
        looked_at += len(records)
        found += [one for one in records if filter.includes(one.record)]
        until |= {place: span.first for place, span in spans.items()}
        size *= 4
    found.sort(key=lambda one: (one.timestamp, one.partition, one.offset))
    return LogPage(found[-limit:], looked_at, ends)


async def _read(access: KafkaAccess, prefix: str, spans: dict[TopicPartition, Span]) -> list[TopicRecord]:
    """Returns what lies there."""
    cut = Cut(spans, (), prefix, {})
    return [record async for records in read_spans(access, cut) for record in records]


def page_recorded(recording: Recording, place: Place, filter: RecordFilter, limit: int) -> LogPage:
    """Reads the recording once."""
    ends = {
        at: span
        for at, span in recording.cut.spans.items()
        if at[0] == place.topic and place.partition in (None, at[1])
    }
    if not ends:
        raise UsageError(f"{recording.path} has nothing of {place.topic}[{place.partition}].")
    there = [
        item
        for item in items_of(recording, lambda done: None)
        if isinstance(item, TopicRecord)
        and (item.topic, item.partition) in ends
        and (place.offset is None or item.offset >= place.offset)
    ]
    wanted = (item for item in there if filter.includes(item.record))
    if place.offset is None:
        in_order = sorted(wanted, key=lambda one: (one.timestamp, one.partition, one.offset))
        return LogPage(in_order[-limit:], len(there), ends)
    return LogPage([*islice(wanted, limit)], len(there), ends)


async def read_live(
    records: Sequence[TopicRecord], urls: Mapping[str, str], consumed_types: Mapping[str, Collection[str]]
) -> list[RecordRead]:
    """Reads each record as an event, and the journals for what became of it. Raises psycopg.Error."""
    events = _events(records)
    strangers = [_id_of_no_event(record) for record in records]
    async with sessions(urls) as conns:
        journals = {
            name: await journal_of(conn, name, events, ids_besides=strangers) for name, conn in conns.items()
        }
    return _told(records, journals, consumed_types)


def read_recorded(
    records: Sequence[TopicRecord], recording: Recording, consumed_types: Mapping[str, Collection[str]]
) -> list[RecordRead]:
    """Reads the recording once more."""
    events = _events(records)
    ids = {event.id for event in events} | {event.cause for event in events}
    ids |= {_id_of_no_event(record) for record in records}
    decided = {(event.source, event.key, event.at) for event in events}
    entries: dict[str, list[JournalRow]] = {service: [] for service in recording.cut.services}
    for item in items_of(recording, lambda done: None):
        if isinstance(item, JournalEntry) and (
            item.id in ids or (item.service, item.key, item.now) in decided
        ):
            entries[item.service].append(row_of(item))
    journals = {
        name: journal_recorded(recording, found, consumed_types.get(name, ()), ())
        for name, found in entries.items()
    }
    return _told(records, journals, consumed_types)


def _events(records: Iterable[TopicRecord]) -> list[PublishedEvent]:
    return [event for record in records if (event := event_in(record))]


def _told(
    records: Sequence[TopicRecord],
    journals: Mapping[str, Journal],
    consumed_types: Mapping[str, Collection[str]],
) -> list[RecordRead]:
    told = ways(_events(records), journals)
    entries = {(name, one.id): one for name, journal in journals.items() for one in journal.entries}
    found = []
    for record in records:
        event = event_in(record)
        if event is None:
            id = _id_of_no_event(record)
            heard = [
                Heard(Hearing(name, record.offset, entry.outcome), entry)
                for (name, of), entry in entries.items()
                if of == id
            ]
            found.append(RecordRead(record, None, _why_no_event(record.record), None, heard))
            continue
        way = told[event.id]
        heard = [
            Heard(hearing, entries.get((hearing.service, event.id)))
            for hearing in way.hearings
            if hearing.offset == record.offset and event.type in consumed_types.get(hearing.service, ())
        ]
        found.append(RecordRead(record, event, "", way.origin, heard))
    return found


def _id_of_no_event(record: TopicRecord) -> UUID:
    """Returns the id by which a journal knows a record that it could not read."""
    return derived_id("record", record.topic, record.partition, record.offset)


def _why_no_event(record: Record) -> str:
    try:
        decode(record)
    except (UnknownType, Undecodable) as why:
        return str(why)
    return ""
