"""A service's rows, made anew from Kafka alone: what it decided lies in its topic, what it heard in others.

Nothing is decided here, and no journal is followed: only `evolve` runs. A key's facts are put in order by
`choreo.replay.rebuild.apply_order`. Which facts are to be in the copy, a `DatabaseSnapshot` says:
those that the service's own database has, so that the two can be compared.

A key's facts lie in partitions of the same number, since all topics have as many and the same partitioner.
So one number is read and folded after the other, and no more than that is in memory.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, compare
from choreo.chassis.registry import all_topics, own_settings
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.chassis.transaction.state_store import Memory
from choreo.errors import HandlerMisbehaves
from choreo.message.catalog import topic_of
from choreo.message.codec import Record, TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.sandbox import refuse, watched
from choreo.replay.rebuild.apply_order import Unordered, in_steps
from choreo.replay.sources.live import read_spans
from choreo.replay.sources.records import Cut, Span
from choreo.replay.sources.rows import values

_ON_NO_TOPIC = -1

STEP = "step"
"""A column of this name holds the step of the fact that made the row."""

Row = tuple[Any, ...]
"""In the order of its table's columns."""


@dataclass(frozen=True)
class DatabaseSnapshot:
    """How far a service had come, as one snapshot of its database has it."""

    positions: Mapping[TopicPartition, Position]
    """What it had heard."""
    sequences: Mapping[str, int]
    """By key: the step of the last fact it had applied."""
    unpublished: Mapping[int, Sequence[Record]]
    """What it had decided and not published, by number of partition; some of it may be on its topic."""
    left_out: Collection[UUID]
    """What it had heard and not applied: parked or given up. Of that Kafka knows nothing."""
    settled: Mapping[TopicPartition, int]
    """What of its own topic lies below was published before: it knows of that, or never decided it."""


class Incomplete(Exception):
    """The log lacks what a copy would have to be made of. The message says what."""


@dataclass
class Copy:
    """The rows of some keys."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    """By table."""
    guesses: dict[str, list[tuple[Any, int, int]]] = field(default_factory=dict)
    """By table: rows whose step lies between the two for certain, and that is all Kafka knows."""
    incomplete: dict[str, str] = field(default_factory=dict)
    """By key: why there are no rows of it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """By key: how many of its facts the service did not apply, as its journal knows alone."""
    keys: set[str] = field(default_factory=set)
    """All that Kafka has something of."""
    facts: int = 0


class Topics:
    """What a service's copy is made of."""

    def __init__(self, service: Service[Any], settings: Settings, access: KafkaAccess) -> None:
        self.service = service
        self._settings = settings
        self._access = access
        self.own = settings.topic_prefix + topic_of(service.name)
        heard = service.heard_topics(settings.topic_prefix)
        # In the topics' order: the user service's facts come first where nothing else says what came first.
        self.heard = [topic for topic in all_topics(settings.topic_prefix) if topic in heard]

    @property
    def names(self) -> list[str]:
        return [self.own, *self.heard]

    def spans(
        self, snapshot: DatabaseSnapshot, log: Mapping[TopicPartition, PartitionLog]
    ) -> dict[TopicPartition, Span]:
        """Returns what to read: all that was heard by then, and of its own topic all that is there.

        Raises `Incomplete` where the log begins too late, ends too early, or is another one.
        """
        spans = {}
        for place, there in sorted(log.items(), key=lambda item: (item[0][1], item[0][0])):
            if there.earliest > 0:
                raise Incomplete(
                    f"{place[0]}[{place[1]}] begins at offset {there.earliest}: what lay before is gone."
                )
            known = snapshot.positions.get(place)
            try:
                compare(self.service.name, there, known)
            except LogMismatch as mismatch:
                raise Incomplete(f"{mismatch}.") from None
            end = there.latest if place[0] == self.own else known.next_offset if known else 0
            spans[place] = Span(0, end, end)
        return spans

    async def histories(
        self, spans: Mapping[TopicPartition, Span], keys: Collection[str] | None = None
    ) -> AsyncIterator["History"]:
        """Yields the history of one partition number after the other. Raises `Incomplete`, `Broken`."""
        history: History | None = None
        for number in sorted({number for _, number in spans}):
            mine = {place: span for place, span in spans.items() if place[1] == number}
            history = History(self, mine)
            await history.read_on(mine, keys)
            yield history

    def cut(self, spans: dict[TopicPartition, Span], keys: Collection[str] | None) -> Cut:
        settings = self._settings
        return Cut(
            spans,
            (),
            settings.topic_prefix,
            own_settings(settings),
            None if keys is None else frozenset(keys),
        )

    def records(self, cut: Cut) -> AsyncIterator[Sequence[TopicRecord]]:
        return read_spans(self._access, cut)


@dataclass
class _OfKey:
    """A key's facts, each with the offset at which it came first."""

    own: dict[UUID, tuple[int, Event[Fact]]] = field(default_factory=dict)
    heard: dict[str, dict[UUID, tuple[int, Event[Fact]]]] = field(default_factory=dict)
    """By topic."""


class History:
    """All facts of the partitions of one number, by key."""

    def __init__(self, topics: Topics, places: Collection[TopicPartition]) -> None:
        self.topics = topics
        self.next = dict.fromkeys(places, 0)
        """The offset after the last that was read."""
        self.records = 0
        self._consumed_types = {fact.__name__.encode() for fact in topics.service.consumes}
        self._keys: dict[str, _OfKey] = {}

    @property
    def number(self) -> int:
        return next(iter(self.next))[1]

    async def read_on(
        self, spans: Mapping[TopicPartition, Span], keys: Collection[str] | None = None
    ) -> None:
        """Reads up to the ends of these spans, from where it had come to. Raises `Incomplete`, `Broken`."""
        rest = {
            place: Span(self.next[place], span.end, span.end)
            for place, span in spans.items()
            if place in self.next and self.next[place] < span.end
        }
        if not rest:
            return
        async for records in self.topics.records(self.topics.cut(rest, keys)):
            for record in records:
                self._take(record, whole=keys is None)
        for place, span in rest.items():
            if keys is None and self.next[place] < span.end:
                raise Incomplete(
                    f"{place[0]}[{place[1]}] lacks offsets {self.next[place]} to {span.end - 1}."
                )
            self.next[place] = span.end

    def _take(self, record: TopicRecord, whole: bool) -> None:
        place = record.topic, record.partition
        if whole and record.begin > self.next[place]:
            raise Incomplete(
                f"{place[0]}[{place[1]}] lacks offsets {self.next[place]} to {record.begin - 1}."
            )
        self.next[place] = record.offset + 1
        self.records += 1
        own = record.topic == self.topics.own
        if not own and type_in(record.record) not in self._consumed_types:
            return
        try:
            event = decode(record.record)
        except UnknownType:
            return
        except Undecodable as error:
            if own:
                raise Incomplete(f"{record.at} cannot be read: {error}.") from None
            return  # then the service could not read it either: it is parked or was given up
        of_key = self._of(event.key)
        if own:
            of_key.own.setdefault(event.id, (record.offset, event))
        else:
            of_key.heard.setdefault(record.topic, {}).setdefault(event.id, (record.offset, event))

    def _of(self, key: str) -> _OfKey:
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = _OfKey()
        return found

    def copy(self, snapshot: DatabaseSnapshot, keys: Collection[str] | None = None) -> Copy:
        """Makes the rows of its keys, or of these of them, as of the snapshot."""
        for record in snapshot.unpublished.get(self.number, ()):
            event = decode(record)
            if keys is None or event.key in keys:
                self._of(event.key).own.setdefault(event.id, (_ON_NO_TOPIC, event))
        copy = Copy()
        for key, facts in self._keys.items():
            if keys is None or key in keys:
                copy.keys.add(key)
                try:
                    self._fold(copy, key, facts, snapshot)
                except Unordered as unordered:
                    copy.incomplete[key] = str(unordered)
                except HandlerMisbehaves:
                    raise
                except Exception as error:
                    copy.incomplete[key] = f"today's code cannot apply its facts: {error!r}"
        return copy

    def _fold(self, copy: Copy, key: str, facts: _OfKey, snapshot: DatabaseSnapshot) -> None:
        """Adds the key's rows. Raises `Unordered` and what `evolve` raises; then there are none of it."""
        service, store = self.topics.service, self.topics.service.store
        applied = in_steps(
            self._own(key, facts, snapshot),
            self._heard(copy, key, facts, snapshot),
            snapshot.sequences.get(key, 0),
        )
        memory = Memory(store.mappings)
        guesses: list[tuple[str, tuple[Any, int, int]]] = []
        for one in applied:
            before = store.from_memory(memory, key, one.event.data)
            ran = watched(partial(service.decider.applied, before, one.event))
            refuse(ran.effects)
            if isinstance(after := ran.result, Exception):
                raise after
            for mapping in store.mappings:
                added, changed = mapping.differences(before, after)
                for row in added:
                    memory.put(mapping, row)
                    if not one.is_certain and STEP in mapping.table.columns:
                        guess = mapping.name_of(row), one.earliest, one.latest
                        guesses.append((str(mapping.table.name), guess))
                for _, row in changed:
                    memory.put(mapping, row)
        copy.facts += len(applied)
        for table, guess in guesses:
            copy.guesses.setdefault(table, []).append(guess)
        for mapping in store.mappings:
            rows = copy.rows.setdefault(str(mapping.table.name), [])
            rows += [values(mapping.table, row) for row in memory.rows(mapping).values()]

    def _own(self, key: str, facts: _OfKey, snapshot: DatabaseSnapshot) -> list[Event[Fact]]:
        last, settled = (
            snapshot.sequences.get(key, 0),
            snapshot.settled.get((self.topics.own, self.number), 0),
        )
        later = [offset for offset, event in facts.own.values() if event.sequence > last]
        if unknown := sum(_ON_NO_TOPIC < offset < settled for offset in later):
            raise Unordered(f"{unknown} facts on its topic are later than the {last} steps the database has")
        return [event for _, event in facts.own.values() if event.sequence <= last]

    def _heard(
        self, copy: Copy, key: str, facts: _OfKey, snapshot: DatabaseSnapshot
    ) -> dict[str, list[Event[Fact]]]:
        heard = {}
        for topic in self.topics.heard:
            position = snapshot.positions.get((topic, self.number))
            end = position.next_offset if position else 0
            known = [event for offset, event in facts.heard.get(topic, {}).values() if offset < end]
            heard[topic] = [event for event in known if event.id not in snapshot.left_out]
            if missing := len(known) - len(heard[topic]):
                copy.left_out[key] = copy.left_out.get(key, 0) + missing
        return heard
