"""What a replay reads, whether it comes from a live system or from a file: one stream of these items.

Of each service's journal the entries come in the order of their positions, and of each partition the records
in the order of their offsets. A record comes before every entry that heard it. Nothing else is promised, and
nothing else is needed: what a service decided is held against its topic by key and sequence.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Table

from choreo.chassis.registry import descriptions, service_names
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.catalog import topic_of
from choreo.message.codec import Record, TopicRecord

Values = Mapping[str, Any] | Sequence[Any]
"""Digests of a row's values: by name those that were changed, or all of a new one (`Cut.columns`)."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """What a step made of rows, in digests: see `choreo/replay/engine/row_digests.py`."""

    facts: str
    """Of all that was decided in it."""
    rows: str
    """Of all rows that it wrote."""
    writes: Sequence[Sequence[Any]]
    """Of each row the number of the fact in its step, the table, the primary key as text, and `Values`."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An input of a service, and what became of it: see `choreo/chassis/transaction/journal.py`."""

    service: str
    position: int
    id: UUID
    key: str
    step: int
    kind: str
    type: str
    topic: str | None
    partition: int | None
    offset: int | None
    correlation_id: UUID | None
    outcome: str
    command: dict[str, Any] | None
    refusal: dict[str, Any] | None
    now: datetime
    """The time its decisions were told."""
    received_at: datetime | None
    code_version: str
    wrote: Wrote | None = None
    """As the code had it that recorded; None where that is not kept, as in a running system."""

    @property
    def at(self) -> str:
        """Where a heard record lies in Kafka; empty for a command."""
        return "" if self.topic is None else f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def step_before(self) -> int:
        """The key's step when the input came: a fact that is applied takes a step itself."""
        return self.step - (1 if self.kind == "fact" and self.outcome == "applied" else 0)


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """A fact in a service's outbox: decided, and perhaps not on its topic yet."""

    service: str
    record: Record


Item = TopicRecord | JournalEntry | OutboxRecord

PASSED_OVER = Record(None, None, [])
"""That of a line which nobody asked for: see `narrowed`."""

Wanted = Mapping[str, Callable[[str], bool]]
"""What is asked for: by service (its journal and outbox) and by topic, which keys."""


def every_key(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a partition that is in the stream."""

    first: int
    settled: int
    """What lies below was published before the journals were read: one of them has its decision."""
    end: int
    """The offset after the last."""


@dataclass(frozen=True)
class Cut:
    """What a stream holds. Its journals are each of one moment, its topics of a later one (rule 15)."""

    spans: dict[TopicPartition, Span]
    services: tuple[str, ...]
    """Whose journals are in it."""
    topic_prefix: str
    own_settings: Mapping[str, Mapping[str, Any]]
    """By service: see `OwnSettings`."""
    keys: frozenset[str] | None = None
    """Only these keys, each from its beginning; None: all of them."""
    until: datetime | None = None
    """Nothing that was decided later."""
    redacted: bool = False
    reduced: bool = False
    """Inputs of its keys were left out, so that their steps are missing: see `choreo minimize`."""
    columns: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """By service and table: the order in which `Wrote` has a row's values. Empty where no step says any."""

    unknown_services: tuple[str, ...] = ()
    """Whose journals were recorded, and which today's code has not: nothing of theirs is in the stream."""
    chosen: frozenset[str] | None = None
    """About these keys alone something is asked; None: about all."""
    sparse: bool = False
    """What is about other keys was not read."""

    @property
    def is_whole(self) -> bool:
        return self.keys is None and self.until is None

    @property
    def has_every_offset(self) -> bool:
        return self.is_whole and not self.sparse

    def is_younger(self, service: str) -> bool:
        """Tells whether there was no such service when this was recorded: not even its topic."""
        return self.topic_of(service) not in {topic for topic, _ in self.spans}

    def chosen_of(self, service: str) -> frozenset[str] | None:
        return None if service in taken_whole() else self.chosen

    @property
    def settings(self) -> Settings:
        """What of an installation's settings decisions depend on."""
        return Settings(own=self.own_settings, topic_prefix=self.topic_prefix)

    @property
    def service_of(self) -> Mapping[str, str]:
        """By topic."""
        return {self.topic_of(service): service for service in service_names()}

    def topic_of(self, service: str) -> str:
        return self.topic_prefix + topic_of(service)


class Broken(Exception):
    """The stream does not hold what it says. The message is a sentence; what came before it is good."""


@cache
def taken_whole() -> frozenset[str]:
    """Returns the services of which all keys are needed, whatever is asked about."""
    return frozenset(name for name, service in descriptions().items() if service.needs_all_keys)


def sequence_of(record: Record) -> int | None:
    """Returns the number that an event says its key had at its source; None where it says none."""
    for name, value in record.headers:
        if name == "ce_sequence":
            return int(value) if value is not None and value.isdigit() else None
    return None


async def lacking(source: "Source", service: str) -> dict[str, str]:
    """Returns, by key of which a journal has nothing left, the sentence that says so."""
    return {
        key: f"the journal of {service} has nothing of key {key}, which has made steps: it was trimmed"
        for key in sorted(await source.trimmed(service))
    }


@dataclass(frozen=True, slots=True)
class EditedRow:
    """A row that was not what the steps make of it, when it was recorded."""

    name: str
    """Its primary key as text."""
    values: Sequence[Any] | None
    """Digests, in `Cut.columns`' order; None: it was not there."""


class Source(Protocol):
    """A stream and what it says of itself."""

    @property
    def cut(self) -> Cut: ...

    def batches(self) -> AsyncIterator[Sequence[Item]]:
        """Yields all items, once, a few thousand at most at a time. Raises `Broken`."""
        ...

    def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]] | None:
        """Yields a table's rows as they were at the cut, in the order of its columns; None where not kept."""
        ...

    async def trimmed(self, service: str) -> Collection[str]:
        """Returns keys that have made steps and of which the journal has nothing, as far as is known."""
        ...

    def digest(self, service: str, table: Table) -> str | None:
        """Returns the `choreo.replay.sources.rows.Digest` of those rows; None where it is not kept."""
        ...

    def edited(self, service: str, table: Table) -> Sequence["EditedRow"]:
        """Returns rows as they were at the cut that do not follow from the steps; none where not kept."""
        ...

    def ticket(self) -> dict[str, Any]:
        """Lets another process read the very same stream, as long as this one is open."""
        ...


class OfRecordsAlone:
    """What a source in memory answers that has no tables, and that no other process reads."""

    def rows(self, service: str, table: Table) -> None:
        return None

    async def trimmed(self, service: str) -> Collection[str]:
        return ()

    def digest(self, service: str, table: Table) -> None:
        return None

    def edited(self, service: str, table: Table) -> Sequence[EditedRow]:
        return ()

    def ticket(self) -> dict[str, Any]:
        raise NotImplementedError("it is in no file")
