"""A stream key by key: each input of each service, with the facts that were decided because of it.

Nothing that happens to one key touches another (but whether a login is free), and what one service decides
about a key the others hear about the same key. So one key at a time can be looked at in all services.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.records import Broken, Cut, Item, JournalEntry, OutboxRecord, Source, lacking


class Torn(Exception):
    """What is recorded of a key does not fit together. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Input:
    """Something a service was asked or heard."""

    id: UUID
    type: str
    flow: UUID | None
    at: str
    """Where it lies in Kafka; empty for a command, and for what lies nowhere."""
    now: datetime
    entry: JournalEntry | None = None
    """None: it is not recorded."""
    facts: tuple[Event[Fact], ...] = ()
    """What was decided because of it, in order, as recorded."""

    @property
    def refusal(self) -> dict[str, Any] | None:
        return self.entry.refusal if self.entry else None


@dataclass(slots=True)
class Key:
    name: str
    entries: dict[str, list[JournalEntry]] = field(default_factory=dict)
    """By service, in the order of handling: what took effect, or was refused."""
    facts: dict[UUID, Event[Fact]] = field(default_factory=dict)
    """All that lie on topics or in outboxes, as they first did."""
    settled: set[UUID] = field(default_factory=set)
    """Those of them that were published before the journals were read."""
    orphans: set[UUID] = field(default_factory=set)
    """Those whose decision is in no journal of the stream: they are taken as they were recorded."""

    def decided_by(self, service: str) -> list[Event[Fact]]:
        """Returns its facts whose decision is in the stream, in order. To be asked after `inputs`."""
        own = [fact for fact in self.facts.values() if fact.source == service and fact.id not in self.orphans]
        return sorted(own, key=lambda fact: fact.sequence)

    def inputs(self, service: str) -> list[Input]:
        """Returns the service's inputs. Raises `Torn` where a record or an entry is missing, or too many."""
        entries = self.entries.get(service, [])
        decided: dict[UUID, list[Event[Fact]]] = {entry.id: [] for entry in entries}
        applied = [entry for entry in entries if entry.outcome == "applied"]
        steps = [entry.step for entry in applied if entry.kind == "fact"]
        number = -1
        for fact in self.decided_by(service):
            while number + 1 < len(applied) and applied[number + 1].step < fact.sequence:
                number += 1
            if number >= 0 and applied[number].now == fact.time:
                decided[applied[number].id].append(fact)
                steps.append(fact.sequence)
            elif number + 1 < len(applied) or fact.id in self.settled:
                raise Torn(f"no input of {service} in the stream led to {fact.type} {fact.id}")
            else:
                self.orphans.add(fact.id)
        for expected, step in enumerate(sorted(steps), start=1):
            if step != expected:
                raise Torn(f"what made step {min(step, expected)} at {service} is missing, or is there twice")
        if applied and applied[-1].step > len(steps):
            raise Torn(f"what made step {len(steps) + 1} at {service} is missing")
        for entry in entries:
            if entry.kind == "fact" and entry.id not in self.facts:
                raise Torn(f"{entry.type} {entry.id}, which {service} heard at {entry.at}, is not there")
        return [
            Input(
                entry.id,
                entry.type,
                entry.correlation_id,
                entry.at,
                entry.now,
                entry,
                tuple(decided[entry.id]),
            )
            for entry in entries
        ]


@dataclass
class ByKey:
    keys: dict[str, Key] = field(default_factory=dict)
    """In the order in which something was first read of them."""
    lacks: list[str] = field(default_factory=list)
    """What of the stream is missing: sentences."""
    items: int = 0


async def read_by_key(
    source: Source, services: Collection[str], progress: Callable[[int], None] | None = None
) -> ByKey:
    """Reads all of a source into memory. The facts of other services than these are taken as recorded."""
    found = ByKey()
    for service in services:
        found.lacks += (await lacking(source, service)).values()
    reader = _Reader(source.cut, services, found)
    try:
        async for batch in source.batches():
            reader.take(batch)
            found.items += len(batch)
            if progress:
                progress(found.items)
        reader.finish()
    except Broken as broken:
        found.lacks.append(str(broken))
    return found


class _Reader:
    def __init__(self, cut: Cut, services: Collection[str], found: ByKey) -> None:
        self._cut = cut
        self._services = services
        self._found = found
        self._next: dict[TopicPartition, int] = dict.fromkeys(cut.spans, 0)

    def take(self, items: Sequence[Item]) -> None:
        for item in items:
            match item:
                case TopicRecord():
                    self._take_record(item)
                case JournalEntry() if item.service in self._services:
                    if item.outcome in ("applied", "refused"):
                        self._key(item.key).entries.setdefault(item.service, []).append(item)
                case OutboxRecord():
                    event = decode(item.record)
                    self._key(event.key).facts.setdefault(event.id, event)

    def finish(self) -> None:
        for place, span in self._cut.spans.items():
            self._check(place, span.end)

    def _take_record(self, record: TopicRecord) -> None:
        place = record.topic, record.partition
        if place not in self._next:
            return
        self._check(place, record.begin)
        self._next[place] = record.offset + 1
        try:
            event = decode(record.record)
        except (UnknownType, Undecodable):
            return
        key = self._key(event.key)
        key.facts.setdefault(event.id, event)
        if event.source not in self._services:
            key.orphans.add(event.id)
        elif record.offset < self._cut.spans[place].settled:
            key.settled.add(event.id)

    def _check(self, place: TopicPartition, offset: int) -> None:
        if self._cut.is_whole and offset > self._next[place]:
            missing = f"{self._next[place]} to {offset - 1}"
            self._found.lacks.append(f"{place[0]}[{place[1]}] lacks offsets {missing}")

    def _key(self, name: str) -> Key:
        return self._found.keys.setdefault(name, Key(name))
