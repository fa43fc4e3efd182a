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
from choreo.replay.engine.in_memory_service import Shadow, Taken
from choreo.replay.engine.sandbox import SideEffect, no_side_effects
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
        entry = self.entry
        return "" if entry.topic is None else f"{entry.topic}[{entry.partition}]@{entry.offset}"

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
    """`key`: only its inputs. A login's being free depends on other keys: whatever else of the stream is
    handed over is taken, too, so that it shows.
    """

    def __init__(
        self,
        source: Source,
        service: Service[S],
        key: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.service = service
        self.shadow = Shadow(service)
        self.lacks: list[str] = []
        """Why some key is not as it was: sentences."""
        self.met = False
        """Something of this key."""
        self._source = source
        self.key = key
        self._progress = progress
        self._latest: Ahead | None = None
        self._hears = {fact.__name__.encode() for fact in service.hears}
        self._aside: set[str] = set()
        """Keys that have come to their end."""
        self._held: dict[tuple[str | None, int | None, int | None], Event[Fact] | Undecodable] = {}
        """What was heard and no entry has asked for yet, by place."""

    async def inputs(self, *, parked: bool = False) -> AsyncIterator[Ahead]:
        """Each is to be given to `take` before the next is asked for. If it is not, its key ends there.

        `parked`: with the parked events, where they failed. Those are not to be taken.
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
                                    self._aside.add(item.key)
                            elif item.outcome == "applied":
                                self.take(ahead)
                    read += len(batch)
                    if self._progress:
                        self._progress(read)
        except Broken as broken:
            self.lacks.append(str(broken))

    def take(self, ahead: Ahead) -> Done | None:
        """None where a handler raises; then its key has come to its end. Raises `SideEffect`."""
        self._latest = ahead
        entry, taken = ahead.entry, ahead.taken
        try:
            with no_side_effects():
                step = taken.run()
        except SideEffect:
            raise
        except Exception as error:
            at = f" at {where}" if (where := raised_at(error)) else ""
            self._stop(
                entry,
                f"{entry.type} {entry.id} makes today's code raise {error!r}{at}",
            )
            return None
        if entry.outcome == "refused":
            return Done(step, ())
        self.shadow.keep(entry.key, taken)
        return Done(step, tuple(writes(taken)))

    def _hold(self, record: TopicRecord) -> None:
        type_ = type_in(record.record)
        if type_ is not None and type_ not in self._hears:
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
                at = f"{entry.topic}[{entry.partition}]@{entry.offset}"
                self._stop(
                    entry, f"{entry.type} {entry.id}, which {entry.service} heard at {at}, is not there"
                )
                return None
            input: Any = heard
        else:
            try:
                input = self.shadow.command(entry.type, entry.command or {})
            except (LookupError, ValueError) as error:
                self._stop(entry, f"today's code knows no {entry.type} as {entry.id} is: {error}")
                return None
        recorded = entry.step - (1 if entry.kind == "fact" and entry.outcome == "applied" else 0)
        if self._source.cut.reduced:
            self.shadow.skip(entry.key, recorded)
        taken = self.shadow.take(entry.key, input, entry.now)
        if taken.sequence != recorded:
            self._stop(
                entry,
                f"{entry.type} {entry.id} met step {recorded} of its key, and today's code comes to step "
                f"{taken.sequence} there: see `choreo verify --service {entry.service}`",
            )
            return None
        return Ahead(entry, taken)

    def _concerns(self, key: str) -> bool:
        if key in self._aside:
            return False
        return self.key in (None, key) or self.service.name == "user"

    def _stop(self, entry: JournalEntry, why: str) -> None:
        self._aside.add(entry.key)
        self.lacks.append(f"key {entry.key} stops at {entry.now:%Y-%m-%dT%H:%M:%S.%fZ}: {why}")


def writes(taken: Taken[Any]) -> Iterator[Write]:
    """What its last run writes."""
    evolve = taken.service.decider.evolve
    for mapping, old, row, event, before in taken.puts():
        yield Write(mapping, old, row, event, case_taken(evolve, before, event))
