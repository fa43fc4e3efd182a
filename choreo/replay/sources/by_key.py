"""A stream key by key: each input of each service, with the facts that were decided because of it.

Nothing that happens to one key touches another (but whether a login is free), and what one service decides
about a key the others hear about the same key. So one key at a time can be looked at in all services.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from choreo.chassis.service import Service
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.on_disk import ListsOnDisk
from choreo.replay.sources.recording import pack_item, unpack_item
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


class ByKey:
    """A whole stream, by key. Of a long one most is on disk, and a key is in memory while it is looked at."""

    def __init__(self, cut: Cut, services: Mapping[str, Service[Any]]) -> None:
        self.lacks: list[str] = []
        """What of the stream is missing: sentences."""
        self.items = 0
        self.of_no_hearer: dict[str, list[JournalEntry]] = {
            name: [] for name, service in services.items() if not service.consumes
        }
        """By service that hears nobody, its journal: whether a login is free depends on other keys."""
        self._cut = cut
        self._services = services
        self._of_key: ListsOnDisk[Item] = ListsOnDisk(pack_item, unpack_item)
        self._next: dict[TopicPartition, int] = dict.fromkeys(cut.spans, 0)

    def __iter__(self) -> Iterator[str]:
        """Yields the keys' names, in the order in which something was first read of them."""
        return iter(self._of_key)

    def __contains__(self, name: object) -> bool:
        return name in self._of_key

    def __len__(self) -> int:
        return len(self._of_key)

    def key(self, name: str) -> Key:
        key = Key(name)
        for item in self._of_key.of(name):
            if isinstance(item, JournalEntry):
                key.entries.setdefault(item.service, []).append(item)
                continue
            try:
                event = decode(item.record)
            except (UnknownType, Undecodable):
                continue
            key.facts.setdefault(event.id, event)
            if isinstance(item, TopicRecord):
                if event.source not in self._services:
                    key.orphans.add(event.id)
                elif item.offset < self._cut.spans[item.topic, item.partition].settled:
                    key.settled.add(event.id)
        return key

    def add(self, item: Item) -> None:
        match item:
            case TopicRecord():
                self._add_record(item)
            case JournalEntry() if item.service in self._services:
                if item.outcome in ("applied", "refused"):
                    item = replace(item, wrote=None)
                    self._of_key.add(item.key, item)
                    if item.service in self.of_no_hearer:
                        self.of_no_hearer[item.service].append(item)
            case OutboxRecord():
                self._of_key.add((item.record.key or b"").decode(errors="replace"), item)

    def finish(self) -> None:
        for place, span in self._cut.spans.items():
            self._check(place, span.end)

    def _add_record(self, record: TopicRecord) -> None:
        place = record.topic, record.partition
        if place not in self._next:
            return
        self._check(place, record.begin)
        self._next[place] = record.offset + 1
        if (type_in(record.record) or b"").decode(errors="replace") in FACT_OF_TYPE:
            self._of_key.add((record.record.key or b"").decode(errors="replace"), record)

    def _check(self, place: TopicPartition, offset: int) -> None:
        if self._cut.is_whole and offset > self._next[place]:
            missing = f"{self._next[place]} to {offset - 1}"
            self.lacks.append(f"{place[0]}[{place[1]}] lacks offsets {missing}")


async def read_by_key(
    source: Source, services: Mapping[str, Service[Any]], progress: Callable[[int], None] | None = None
) -> ByKey:
    """Reads all of a source. The facts of other services than these are taken as recorded."""
    found = ByKey(source.cut, services)
    for service in services:
        found.lacks += (await lacking(source, service)).values()
    try:
        async for batch in source.batches():
            for item in batch:
                found.add(item)
            found.items += len(batch)
            if progress:
                progress(found.items)
        found.finish()
    except Broken as broken:
        found.lacks.append(str(broken))
    return found
