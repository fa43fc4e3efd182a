"""One service's inputs, taken again in the order of its journal: how state, blame and replay look back.

What is kept is what was *recorded*: the facts that were decided, folded by today's `evolve`. Beside it
today's code decides each input anew, on the recorded state, so that wherever it would decide otherwise is
known: `Walk.differs`. `today` keeps what today's code decides instead.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from choreo.chassis.service import Service
from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction.state_store import TableMapping
from choreo.message.codec import TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.cases import case_taken
from choreo.replay.engine.in_memory_service import InMemoryService, Put, Taken, refusal_as_dict
from choreo.replay.engine.recorded import Differs, NotRecorded, RecordedFacts, differing
from choreo.replay.engine.sandbox import refuse, run_sandboxed, take
from choreo.replay.sources.recording import narrowed
from choreo.replay.sources.records import PASSED_OVER, Broken, JournalEntry, Source, Wanted, every_key

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Ahead:
    """An input that is about to be taken, and the state it meets."""

    entry: JournalEntry
    taken: Taken[Any]
    facts: tuple[Event[Fact], ...] | None = None
    """What was decided because of it, as recorded. None: nobody has looked."""

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
    before: Any
    """The state that the fact met."""

    @property
    def name(self) -> Any:
        return self.mapping.name_of(self.row)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an input."""

    events: tuple[Event[Fact], ...]
    """What was decided: as recorded, or by today's code where that is kept."""
    refusal: dict[str, Any] | None
    """As the journal has it."""
    writes: tuple[Write, ...]
    after: Any
    """The state after it, with the rows that the last of its facts concerns."""
    differs: Differs | None = None


class Walk(Generic[S]):
    """Takes a service's inputs, or those of one key.

    Of a service that needs all keys, as a login is free or not whoever asks, all of the stream are taken.
    """

    def __init__(
        self,
        source: Source,
        service: Service[S],
        key: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        today: bool = False,
        compare: bool = True,
    ) -> None:
        """`today` keeps what today's code decides; with `compare` off, the records are not even looked at."""
        self.service = service
        self.in_memory = InMemoryService(service)
        self.lacks: list[str] = []
        """Why some key is not as it was: sentences."""
        self.differs: list[Differs] = []
        """Where today's code decides otherwise than was recorded."""
        self.printed: dict[str, str] = {}
        """What handlers print, the last of each place."""
        self.versions: set[str] = set()
        """Of the code that decided what is told."""
        self.met = False
        """Something of this key."""
        self._source = source
        self.key = key
        self._progress = progress
        self._today, self._compare = today, compare
        self._facts = RecordedFacts()
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
        heard = self.service.heard_topics(self._source.cut.topic_prefix)
        try:
            if self._compare:
                read = await self._read_facts()
            source = narrowed(self._source, self._wanted(heard))
            async with aclosing(source.batches()) as batches:  # type: ignore[type-var]
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
        """Takes the input. Returns None where its key ends, as a handler raises. Raises `SideEffect`."""
        self._latest = ahead
        entry, taken = ahead.entry, ahead.taken
        self.versions.add(entry.code_version)
        ran = take(taken)
        if ran.effects:
            self.printed |= {
                effect.says: effect.text.strip() for effect in ran.effects if effect.what == "prints"
            }
            refuse(ran.effects)
        outcome = ran.result
        differs = None if ahead.facts is None else differing(entry, taken, ahead.facts, outcome)
        if differs:
            self.differs.append(differs)
            if not self._today:
                return self._take_recorded(ahead, differs)
        if isinstance(outcome, Exception):
            self._stop(entry, f"{entry.type} {entry.id} makes today's code {_raise(outcome)}")
            return None
        refusal = refusal_as_dict(outcome)
        if entry.outcome == "refused":
            return Done(outcome.events, refusal, (), outcome.state, differs)
        puts = self.in_memory.keep(entry.key, taken)
        return Done(outcome.events, refusal, tuple(writes(taken, puts)), outcome.state, differs)

    def _take_recorded(self, ahead: Ahead, differs: Differs) -> Done | None:
        """Folds what was recorded, where today's code decides otherwise."""
        entry, facts = ahead.entry, ahead.facts or ()
        heard = ahead.taken.input
        applied = [heard.applied_as(entry.step)] if isinstance(heard, Event) else []
        written: list[Write] = []
        after = ahead.taken.state
        for event in [*applied, *facts]:
            folded = self.in_memory.fold(entry.key, event)
            outcome = run_sandboxed(folded)
            if isinstance(outcome, Exception):
                says = f"the recorded {event.type} {event.id} makes today's evolve {_raise(outcome)}"
                self._stop(entry, says)
                return None
            after = outcome.state
            written += writes(folded, self.in_memory.keep(entry.key, folded))
        return Done(facts, entry.refusal, tuple(written), after, differs)

    async def _read_facts(self) -> int:
        """Reads what was decided, before anything is told: see `RecordedFacts`. Returns how much it read."""
        service, read = self.service.name, 0
        key = None if self.service.needs_all_keys else self.key
        own_topic = self._source.cut.topic_of(service)
        source = narrowed(self._source, self._wanted([own_topic]))
        async with aclosing(source.batches()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for item in batch:
                    self._facts.add(item, service, own_topic, key)
                read += len(batch)
                if self._progress:
                    self._progress(read)
        return read

    def _wanted(self, topics: Iterable[str]) -> Wanted:
        """Returns what is to be read of these topics, and of its journal."""
        keys = every_key if self.service.needs_all_keys or self.key is None else self.key.__eq__
        return dict.fromkeys([self.service.name, *topics], keys)

    def _hold(self, record: TopicRecord) -> None:
        if record.record is PASSED_OVER:
            return
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
        parked = entry.outcome == "parked"
        if entry.kind == "fact":
            heard = self._held.pop((entry.topic, entry.partition, entry.offset), None)
            if entry.outcome not in ("applied", "parked"):
                return None
            if parked:
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
        facts: tuple[Event[Fact], ...] | None = () if self._compare and not parked else None
        if self._compare and entry.outcome == "applied":
            try:
                facts = self._facts.led_to(entry, reduced=self._source.cut.reduced)
            except NotRecorded as missing:
                self._stop(entry, f"of what {entry.type} {entry.id} led to, {missing}")
                return None
        return Ahead(entry, taken, facts)

    def _concerns(self, key: str) -> bool:
        if key in self._excluded_keys:
            return False
        return self.key in (None, key) or self.service.needs_all_keys

    def _stop(self, entry: JournalEntry, why: str) -> None:
        self._excluded_keys.add(entry.key)
        self.lacks.append(f"key {entry.key} stops at {entry.now:%Y-%m-%dT%H:%M:%S.%fZ}: {why}")


def _raise(error: Exception) -> str:
    at = f" at {where}" if (where := raised_at(error)) else ""
    return f"raise {error!r}{at}"


def writes(taken: Taken[Any], puts: Iterable[Put[Any]]) -> Iterator[Write]:
    """Yields the rows that its last run writes, with the lines that did. `puts`: see `Taken.puts`."""
    decider = taken.service.decider
    for mapping, old, row, event, before in puts:
        case = case_taken(decider.evolve_of(type(event.data)), before, event)
        yield Write(mapping, old, row, event, case, before)
