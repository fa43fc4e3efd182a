"""One service's inputs, taken again in the order of its journal: how state, blame and replay look back.

What is kept is what today's code makes of the recorded inputs. Whether that is what was recorded, is what
`choreo.replay.verify.verify` finds out; here only what cannot be overlooked is noticed: `Walk.lacks`.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from choreo.chassis.service import Service
from choreo.chassis.transaction.state_store import TableMapping
from choreo.chassis.transaction.step import Outcome
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.cases import case_taken
from choreo.replay.engine.in_memory_service import InMemoryService, Taken
from choreo.replay.engine.sandbox import run_sandboxed
from choreo.replay.engine.source_lines import raised_at
from choreo.replay.sources.records import Broken, JournalEntry, Source

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Ahead:
    """An input that is about to be taken, and the state it meets."""

    entry: JournalEntry
    taken: Taken[Any]

    @property
    def at(self) -> str:
        """Where it lies in Kafka; empty for a command."""
        return self.entry.at

    @property
    def parked(self) -> bool:
        """It was not handled, and is still to be: nothing in what comes later follows from it."""
        return self.entry.outcome == "parked"


@dataclass(frozen=True, slots=True)
class Write:
    """A row that a fact put, over the old one or as a new one."""

    mapping: TableMapping
    old: Any | None
    row: Any
    event: Event[Fact]
    """The fact, heard or own."""
    case: str
    """File and line in evolve."""

    @property
    def name(self) -> Any:
        return self.mapping.name_of(self.row)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an input."""

    step: Outcome[Any]
    writes: tuple[Write, ...]


class Walk(Generic[S]):
    """Takes a service's inputs, or those of one key.

    Whether a login is free depends on other keys: of the user service, all of the stream are taken.
    """

    def __init__(
        self,
        source: Source,
        service: Service[S],
        key: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.service = service
        self.in_memory = InMemoryService(service)
        self.lacks: list[str] = []
        """Why some key is not as it was: sentences."""
        self.met = False
        """Something of this key."""
        self._source = source
        self.key = key
        self._progress = progress
        self._latest: Ahead | None = None
        self._consumed_types = {fact.__name__.encode() for fact in service.consumes}
        self._excluded_keys: set[str] = set()
        """Keys that have come to their end."""
        self._held: dict[tuple[str | None, int | None, int | None], Event[Fact] | Undecodable] = {}
        """What was heard and no entry has asked for yet, by place."""

    async def inputs(self, *, parked: bool = False) -> AsyncIterator[Ahead]:
        """Yields each input, to be given to `take` before the next is asked for; else its key ends there.

        `parked`: parked events as well, where they failed. Those are not to be taken.
        """
        read = 0
        try:
            async with aclosing(self._source.batches()) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    for item in batch:
                        if isinstance(item, TopicRecord):
                            self._hold(item)
                        elif isinstance(item, JournalEntry) and (ahead := self._ahead(item)):
                            if ahead.parked:
                                if parked and self.key in (None, item.key):
                                    yield ahead
                            elif self.key in (None, item.key):
                                yield ahead
                                if self._latest is not ahead:
                                    self._excluded_keys.add(item.key)
                            elif item.outcome == "applied":
                                self.take(ahead)
                    read += len(batch)
                    if self._progress:
                        self._progress(read)
        except Broken as broken:
            self.lacks.append(str(broken))

    def take(self, ahead: Ahead) -> Done | None:
        """Takes the input. Returns None where a handler raises: its key ends there. Raises `SideEffect`."""
        self._latest = ahead
        entry, taken = ahead.entry, ahead.taken
        outcome = run_sandboxed(taken)
        if isinstance(outcome, Exception):
            at = f" at {where}" if (where := raised_at(outcome)) else ""
            self._stop(entry, f"{entry.type} {entry.id} makes today's code raise {outcome!r}{at}")
            return None
        if entry.outcome == "refused":
            return Done(outcome, ())
        self.in_memory.keep(entry.key, taken)
        return Done(outcome, tuple(writes(taken)))

    def _hold(self, record: TopicRecord) -> None:
        type_ = type_in(record.record)
        if type_ is not None and type_ not in self._consumed_types:
            return
        try:
            event = decode(record.record)
        except UnknownType:
            return
        except Undecodable as error:
            self._held[record.topic, record.partition, record.offset] = error
            return
        if self._concerns(event.key):
            self._held[record.topic, record.partition, record.offset] = event

    def _ahead(self, entry: JournalEntry) -> Ahead | None:
        if entry.service != self.service.name or not self._concerns(entry.key):
            return None
        self.met = self.met or entry.key == self.key
        if entry.kind == "fact":
            heard = self._held.pop((entry.topic, entry.partition, entry.offset), None)
            if entry.outcome not in ("applied", "parked"):
                return None
            if entry.outcome == "parked":
                heard = heard or Undecodable(f"{entry.service} hears nothing there today")
            elif not isinstance(heard, Event) or heard.id != entry.id:
                self._stop(
                    entry, f"{entry.type} {entry.id}, which {entry.service} heard at {entry.at}, is not there"
                )
                return None
            input: Any = heard
        else:
            try:
                input = self.in_memory.command(entry.type, entry.command or {})
            except (LookupError, ValueError) as error:
                self._stop(entry, f"today's code knows no {entry.type} as {entry.id} is: {error}")
                return None
        if self._source.cut.reduced:
            self.in_memory.skip(entry.key, entry.step_before)
        taken = self.in_memory.take(entry.key, input, entry.now)
        if taken.sequence != entry.step_before:
            self._stop(
                entry,
                f"{entry.type} {entry.id} met step {entry.step_before} of its key, and today's code comes to "
                f"step {taken.sequence} there: see `choreo verify --service {entry.service}`",
            )
            return None
        return Ahead(entry, taken)

    def _concerns(self, key: str) -> bool:
        if key in self._excluded_keys:
            return False
        return self.key in (None, key) or self.service.name == "user"

    def _stop(self, entry: JournalEntry, why: str) -> None:
        self._excluded_keys.add(entry.key)
        self.lacks.append(f"key {entry.key} stops at {entry.now:%Y-%m-%dT%H:%M:%S.%fZ}: {why}")


def writes(taken: Taken[Any]) -> Iterator[Write]:
    """Yields the rows that its last run writes, with the lines that did."""
    decider = taken.service.decider
    for mapping, old, row, event, before in taken.puts():
        case = case_taken(decider.evolve_of(type(event.data)), before, event)
        yield Write(mapping, old, row, event, case)
