"""A stream without a broker: the model of `tests/unit/choreography.py`, with a journal in every service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Table

from choreo.chassis.database.tables import keys
from choreo.chassis.registry import services
from choreo.chassis.service import Service as Described
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.codec import TopicRecord, encode
from choreo.message.decider import Command, Refusal
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.recording import Writer
from choreo.replay.sources.records import Cut, EditedRow, Item, JournalEntry, OutboxRecord, Span
from choreo.replay.sources.rows import values
from choreo.replay.verify.digesting import Digesting
from tests.services import TOPICS
from tests.unit.choreography import DEADLINE, DECIDERS, Choreography, Service
from tests.unit.facts import ADA

NAMES = ("order", "billing", "notification")
OWN: dict[str, dict[str, Any]] = {"order": {"decide_within": DEADLINE}, "billing": {"currency": "EUR"}}
_DESCRIBED = services(Settings(own=OWN))


@dataclass
class Journaling(Service):
    journal: list[JournalEntry] = field(default_factory=list)
    after: list[Any] = field(default_factory=list)
    """The state after each entry."""
    places: dict[Any, tuple[str, int]] = field(default_factory=dict)
    """Of events, in their topics."""

    def hear(self, heard: Event[Fact], now: datetime) -> None:
        if heard.id not in self.seen:
            number = self.sequence
            super().hear(heard, now)
            topic, offset = self.places[heard.id]
            self._journal(heard, heard.id, "fact", number + 1, now, topic=topic, offset=offset)

    def obey(self, command: Command, id: Any, now: datetime) -> Refusal | None:
        number, before = self.sequence, id in self.seen
        refusal = super().obey(command, id, now)
        if not before and (refusal is None or refusal.remembered):
            told = orjson.loads(orjson.dumps(command))
            self._journal(command, id, "command", number, now, command=told, refusal=refusal)
        return refusal

    def _journal(
        self,
        input: Event[Fact] | Command,
        id: Any,
        kind: str,
        step: int,
        now: datetime,
        *,
        topic: str | None = None,
        offset: int | None = None,
        command: dict[str, Any] | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        self.after.append(self.state)
        flow = input.correlation_id if isinstance(input, Event) else input.cause.correlation_id
        self.journal.append(
            JournalEntry(
                self.decider.service,
                len(self.journal) + 1,
                id,
                input.key,
                step,
                kind,
                input.type if isinstance(input, Event) else type(input).__name__,
                topic,
                None if topic is None else 0,
                offset,
                flow,
                "refused" if refusal else "applied",
                command,
                orjson.loads(orjson.dumps({"type": type(refusal).__name__, **refusal.numbers}))
                if refusal
                else None,
                now,
                now,
                "0",
            )
        )


class Constructed(Choreography):
    """A source of one key, whose inputs come through its methods."""

    def __init__(self, deciders: dict[str, Decider[Any]] = DECIDERS) -> None:
        super().__init__(deciders)
        self.journaling = {
            name: Journaling(service.decider, service.empty) for name, service in self.services.items()
        }
        self.services = dict(self.journaling)

    def deliver(self, reader: str, topic: str) -> bool:
        offset = self.read[reader, topic]
        if offset < len(self.topics[topic]):
            event = self.topics[topic][offset]
            self.journaling[reader].places.setdefault(event.id, (TOPICS[topic], offset))
        return super().deliver(reader, topic)

    @property
    def cut(self) -> Cut:
        ends = {TOPICS[name]: len(records) for name, records in self.topics.items()}
        spans = {(topic, 0): Span(0, end, end) for topic, end in ends.items()}
        return Cut(spans, NAMES, "", OWN)

    def items(self) -> Iterator[Item]:
        for name, records in self.topics.items():
            for offset, event in enumerate(records):
                yield TopicRecord(TOPICS[name], 0, offset, 0, True, encode(event))
        for name, service in self.journaling.items():
            yield from service.journal
            for event in service.decided[service.published :]:
                yield OutboxRecord(name, encode(event))

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        for item in self.items():
            yield [item]

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        here = self.journaling[service]
        if table is keys:
            yield [(str(ADA), here.sequence)]
            return
        yield list(rows_of(self.described(service), here.state)[table.name].values())

    async def trimmed(self, service: str) -> Collection[str]:
        return ()

    def digest(self, service: str, table: Table) -> None:
        return None

    def edited(self, service: str, table: Table) -> Sequence[EditedRow]:
        return ()

    def ticket(self) -> dict[str, Any]:
        return {}

    def described(self, name: str) -> Described[Any]:
        return _DESCRIBED[name]

    def recorded(self, path: Path, *, digests: bool = True) -> Path:
        """Writes it as `choreo record` does, or as it did before there were digests."""
        digesting = Digesting(self.cut, {name: self.described(name) for name in NAMES})
        cut, add = (digesting.cut, digesting.add) if digests else (self.cut, list[Item])
        with Writer(path, cut, None, add) as writer:
            writer.write(list(self.items()))
            asyncio.run(self._write_rows(writer, digesting if digests else None))
            writer.finish()
        return path

    async def _write_rows(self, writer: Writer, digesting: Digesting | None) -> None:
        for name in NAMES:
            for mapping in self.described(name).store.mappings:
                expected = digesting.rows_of(name, mapping.table) if digesting else None
                await writer.digest(self, name, mapping.table, expected)


def rows_of(service: Described[Any], state: Any) -> dict[str, dict[Any, tuple[Any, ...]]]:
    """By table and primary key, of a state that holds all of its key."""
    found: dict[str, dict[Any, tuple[Any, ...]]] = {}
    for mapping in service.store.mappings:
        held = getattr(state, mapping.field)
        rows = ([held] if held else []) if mapping.single else held.values()
        found[mapping.table.name] = {mapping.name_of(row): values(mapping.table, row) for row in rows}
    return found


def a_story() -> Constructed:
    """An order is paid, cancelled and refunded, another is too dear; money comes and goes."""
    shop = Constructed()
    shop.register()
    wishes: list[Callable[[], None]] = [
        lambda: shop.deposit(400_00),
        lambda: shop.place(100_00),
        lambda: shop.place(500_00),
        lambda: shop.withdraw(1000_00),
        lambda: shop.cancel(0),
        lambda: shop.withdraw(1),
    ]
    for wish in wishes:
        shop.settle()
        shop.seconds += 1
        wish()
    shop.settle()
    return shop
