"""All services in memory, in a closed loop: see `choreo/replay/verify/closed_loop.py`."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypedDict
from uuid import UUID

from choreo.chassis.service import Service
from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction.step import Outcome
from choreo.message.codec import decode, encode
from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.deciding_lines import decided_at
from choreo.replay.engine.hidden_inputs import Sample
from choreo.replay.engine.in_memory_service import InMemoryService, Taken, refusal_as_dict
from choreo.replay.engine.row_origin import InMemoryServiceWithOrigins
from choreo.replay.engine.sandbox import take
from choreo.replay.sources.by_key import Input, Key, Torn
from choreo.replay.sources.records import JournalEntry
from choreo.replay.sources.rows import plain
from choreo.replay.verify.decisions import of_no_handler
from choreo.replay.verify.findings import Finding


class Origin(TypedDict):
    """The first step of a key that goes another way."""

    service: str
    type: str
    event: str
    """The id of the input."""
    at: str
    time: str
    handler: str


@dataclass(frozen=True)
class Difference(Finding):
    """A finding, and what it comes from."""

    row: str = ""
    """The primary key, where the finding is about a row."""
    trace: str = ""
    """What `choreo trace` knows it by."""
    origin: Origin | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, self.row)


Ran = tuple[Taken[Any], Outcome[Any] | Exception]


class Simulation:
    """The services in memory, in a closed loop: each hears what the others decide."""

    def __init__(
        self, services: Mapping[str, Service[Any]], *, some_keys: bool = False, reads: bool = False
    ) -> None:
        """`some_keys` says that the source has not all keys that there are; `reads` is `take`'s."""
        self.services = {name: InMemoryServiceWithOrigins(service) for name, service in services.items()}
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.torn: set[str] = set()
        """Keys of which nothing can be said."""
        self.origins: dict[tuple[str, str], Origin] = {}
        """By service and key, where it goes another way."""
        self.ran: dict[UUID, Ran] = {}
        self._effects: set[tuple[str, ...]] = set()
        self._some_keys = some_keys
        self._sample = Sample() if reads else None
        self._hearers = {
            fact: [name for name, service in services.items() if fact in service.consumes]
            for fact in set(chain.from_iterable(service.consumes for service in services.values()))
        }

    def hearers(self, fact: Fact) -> list[str]:
        return self._hearers.get(type(fact), [])

    def run_ahead(self, journals: Mapping[str, Sequence[JournalEntry]]) -> None:
        """Takes the journals of those that hear nobody as they are: their rows are of all keys."""
        for name, entries in journals.items():
            for entry in entries:
                self._run_ahead(self.services[name], entry)

    def _run_ahead(self, in_memory: InMemoryService[Any], entry: JournalEntry) -> None:
        try:
            command = in_memory.command(entry.type, entry.command or {})
        except (LookupError, ValueError):
            return  # it is told in its place
        taken = in_memory.take(entry.key, command, entry.now)
        step = self.run(entry.service, entry.id, entry.type, taken)
        if self._some_keys and entry.outcome == "refused" and isinstance(step, Outcome) and not step.refusal:
            says = f"why {entry.type} {entry.id} was refused is not in a recording of some keys"
            self.tear(entry.key, says)
            return
        self.ran[entry.id] = taken, step
        if isinstance(step, Outcome) and not step.refusal:
            in_memory.keep(entry.key, taken)

    def run(self, name: str, id: UUID, type_: str, taken: Taken[Any]) -> Outcome[Any] | Exception:
        """Takes a step. What a handler tries to do outside is a finding, and what it raises is returned."""
        ran = take(taken, reads=self._sample is not None and self._sample.takes((name, type_)))
        for effect in ran.effects:
            self.counts["effects"] += 1
            place = effect.lines[-1] if effect.lines else ""
            finding = Finding("effect", name, effect.says, "", str(id), type_, handler=place)
            if effect.outside:
                finding = of_no_handler(effect, name)
            if finding.identity not in self._effects:
                self._effects.add(finding.identity)
                self.findings.append(replace(finding, got=effect.text.strip() or None, lines=effect.lines))
        return ran.result

    def tear(self, key: str, why: str) -> None:
        self.torn.add(key)
        self.findings.append(Finding("incomplete", "", f"of key {key} nothing can be said: {why}", key))

    def forget_key(self) -> None:
        """Leaves the services that hear without rows: no other key needs those of the last one."""
        for name, in_memory in self.services.items():
            if in_memory.service.consumes:
                self.services[name] = InMemoryServiceWithOrigins(in_memory.service)

    def take(self, key: Key) -> None:
        """Takes all that happened to it, in all services."""
        try:
            _KeySimulation(self, key).run()
        except Torn as torn:
            self.tear(key.name, str(torn))


class _KeySimulation:
    def __init__(self, simulation: Simulation, key: Key) -> None:
        """Raises `Torn`."""
        self._simulation = simulation
        self._key = key
        self._inputs = {name: deque(key.inputs(name)) for name in simulation.services}
        heard = {
            name: {input.id for input in inputs if input.entry and input.entry.kind == "fact"}
            for name, inputs in self._inputs.items()
        }
        self._recorded = heard
        """By service: the facts that it heard, as recorded."""
        self._to_come = {name: set(ids) for name, ids in heard.items()}
        self._heard: dict[str, set[UUID]] = {name: set() for name in simulation.services}
        self._decided = {id: key.facts[id] for id in key.orphans}
        self._over: set[UUID] = set()
        """Recorded facts whose input is over: whoever is not decided by now is not decided in its time."""
        self._parked: set[str] = set()
        """Services in which a handler raised: facts of this key queue behind that one."""
        self._changed: dict[UUID, Origin] = {}
        """Facts that are new, other than recorded or no more, and what they come from."""
        self._to_hear: deque[tuple[str, Event[Fact]]] = deque()

    def run(self) -> None:
        """Raises `Torn`."""
        while any(self._inputs.values()):
            ready = [name for name, inputs in self._inputs.items() if inputs and self._is_ready(inputs[0])]
            if not ready:
                raise Torn("its facts were heard in an order in which they cannot have been decided")
            name = min(ready, key=lambda name: self._inputs[name][0].now)
            input = self._inputs[name].popleft()
            self._take(name, input)
            self._end(name, input)
            while self._to_hear:
                hearer, event = self._to_hear.popleft()
                self._hear(hearer, event, Input(event.id, event.type, event.correlation_id, "", input.now))
        self._count()

    def _end(self, name: str, input: Input) -> None:
        for fact in input.facts:
            self._over.add(fact.id)
            origin = self._simulation.origins.get((name, self._key.name))
            if fact.id not in self._decided and origin:
                self._changed[fact.id] = origin

    def _is_ready(self, input: Input) -> bool:
        assert input.entry
        return input.entry.kind == "command" or input.id in self._decided or input.id in self._over

    def _take(self, name: str, input: Input) -> None:
        entry = input.entry
        assert entry
        self._simulation.counts["inputs"] += 1
        if entry.kind == "fact":
            self._to_come[name].discard(entry.id)
            if event := self._decided.get(entry.id):
                self._hear(name, event, input)
            else:
                self._lose(name, input, "is not decided any more", self._changed.get(entry.id))
            return
        in_memory = self._simulation.services[name]
        try:
            command = in_memory.command(entry.type, entry.command or {})
        except (LookupError, ValueError) as error:
            self._differs(name, input, f"is a command that today's code does not know: {error}")
            return
        if command.cause.is_event:  # it follows from a row: a timer saw it, and saw nothing else
            rows = list(_named(in_memory, command))
            if None in rows:
                self._lose(
                    name, input, "does not apply any more", self._simulation.origins.get((name, entry.key))
                )
                return
            causes = [row.cause for row in rows if hasattr(row, "cause")]
            command = replace(command, cause=causes[0]) if causes else command
        ran = self._simulation.ran.pop(entry.id, None)
        self._step(name, command, input, ran)

    def _hear(self, name: str, event: Event[Fact], input: Input) -> None:
        if origin := self._changed.get(event.id):
            self._simulation.origins.setdefault((name, self._key.name), origin)
        if name in self._parked:
            self._lose(name, input, "queues behind what cannot be handled", None)
        elif event.id not in self._heard[name]:
            self._heard[name].add(event.id)
            self._step(name, event, input)

    def _step(self, name: str, asked: Event[Fact] | Command, input: Input, ran: Ran | None = None) -> None:
        in_memory, key = self._simulation.services[name], self._key
        if ran is None:
            taken = in_memory.take(key.name, asked, input.now)
            step = self._simulation.run(name, input.id, input.type, taken)
        else:
            taken, step = ran
        heard: dict[UUID, Event[Fact]] = {}
        if isinstance(step, Outcome):
            heard, step = self._as_heard(step)
        if isinstance(step, Exception):
            says = f"raises {type(step).__name__}: {step}"
            self._differs(name, input, says, handler=raised_at(step) or "", got=repr(step))
            if isinstance(asked, Event):
                self._parked.add(name)
            return
        refused = step.refusal is not None and not isinstance(asked, Event)
        if not refused and ran is None:
            in_memory.keep(key.name, taken)
        events = [] if refused else [heard[event.id] for event in step.events]
        origin = self._compare(name, input, taken, step, events)
        for event in events:
            if event.id in self._decided:
                continue
            self._decided[event.id] = event
            if event is not key.facts.get(event.id):
                assert origin
                self._changed[event.id] = origin
            self._to_hear.extend((hearer, event) for hearer in self._hear_at_once(event))

    def _as_heard(self, step: Outcome[Any]) -> tuple[dict[UUID, Event[Fact]], Outcome[Any] | Exception]:
        """Returns its facts as they come out of their records; one that is as recorded is the very one."""
        heard = {}
        for event in step.events:
            recorded = self._key.facts.get(event.id)
            if recorded is not None and _content(recorded) == _content(event):
                heard[event.id] = recorded
                continue
            try:
                heard[event.id] = decode(encode(event))
            except Exception as error:
                return {}, error
        return heard, step

    def _hear_at_once(self, event: Event[Fact]) -> list[str]:
        """Returns who hears it at once: services whose journals have no turn for it, and did not park it."""
        return [
            name
            for name in self._simulation.hearers(event.data)
            if event.id not in self._to_come[name]
            and (event.id not in self._key.facts or event.id in self._recorded[name])
        ]

    # -- what differs ----------------------------------------------------------------------------

    def _compare(
        self, name: str, input: Input, taken: Taken[Any], step: Outcome[Any], events: list[Event[Fact]]
    ) -> Origin | None:
        recorded = {fact.id: fact for fact in input.facts}
        refusal = refusal_as_dict(step)
        if refusal != input.refusal:
            handler = decided_at(taken, None) or ""
            says = "is answered differently"
            if not (recorded or events):
                return self._differs(name, input, says, handler=handler, expected=input.refusal, got=refusal)
        elif [_content(event) for event in events] == [_content(fact) for fact in input.facts]:
            return None
        other = next((event for event in events if event is not recorded.get(event.id)), None)
        handler = decided_at(taken, other.data if other else None) or ""
        says = _leads(input.facts, events)
        return self._differs(
            name,
            input,
            says,
            handler=handler,
            expected=input.refusal or _events_as_dicts(input.facts),
            got=refusal or _events_as_dicts(events),
        )

    def _lose(self, name: str, input: Input, why: str, origin: Origin | None) -> None:
        """Notes that an input is not taken. Its origin is, unless given, that of its service and key."""
        origin = origin or self._simulation.origins.get((name, self._key.name))
        if origin:
            self._simulation.origins.setdefault((name, self._key.name), origin)
        if input.facts:
            says = f"{why}, so there is no {_types(input.facts)}"
            self._differs(name, input, says, expected=_events_as_dicts(input.facts))

    def _differs(
        self,
        name: str,
        input: Input,
        says: str,
        *,
        handler: str = "",
        expected: Any = None,
        got: Any = None,
    ) -> Origin:
        """Adds a difference. The first of a service and key is the origin of all that follow."""
        told = Origin(
            service=name,
            type=input.type,
            event=str(input.id),
            at=input.at,
            time=plain(input.now),
            handler=handler,
        )
        origin = self._simulation.origins.setdefault((name, self._key.name), told)
        self._simulation.findings.append(
            Difference(
                "step",
                name,
                f"{input.type} {input.id} {says}",
                self._key.name,
                str(input.id),
                input.type,
                input.at,
                plain(input.now),
                handler,
                expected=expected,
                got=got,
                trace=str(input.flow or input.id),
                origin=origin,
            )
        )
        return origin

    def _count(self) -> None:
        counts, decided = self._simulation.counts, self._decided
        recorded = {id: fact for id, fact in self._key.facts.items() if id not in self._key.orphans}
        counts["facts"] += len(recorded)
        counts["facts gone"] += sum(id not in decided for id in recorded)
        counts["facts other"] += sum(decided.get(id, fact) is not fact for id, fact in recorded.items())
        counts["facts new"] += sum(id not in self._key.facts for id in decided)


def _named(in_memory: InMemoryService[Any], command: Command) -> Iterator[Any]:
    """Yields the rows that a command names; None for one that is not there."""
    for mapping in in_memory.service.store.mappings:
        name = getattr(command, mapping.loaded_by_id, None) if mapping.loaded_by_id else None
        if name is not None:
            yield in_memory.memory.by_id(mapping, name)


# -- words -------------------------------------------------------------------------------------------


def _content(event: Event[Fact]) -> tuple[Any, ...]:
    """Returns all of it but its step, which depends on what else happened."""
    return (
        event.id,
        event.time,
        event.key,
        event.causation_id,
        event.correlation_id,
        event.trace_id,
        event.data,
    )


def _leads(recorded: Sequence[Event[Fact]], decided: Sequence[Event[Fact]]) -> str:
    before, after = {fact.id for fact in recorded}, {event.id for event in decided}
    gone = _types([fact for fact in recorded if fact.id not in after])
    new = _types([event for event in decided if event.id not in before])
    if gone and new:
        return f"leads to {new}, and not to {gone}"
    if gone:
        return f"does not lead to {gone} any more"
    return f"also leads to {new}" if new else f"leads to another {_types(decided)}"


def _types(events: Sequence[Event[Fact]]) -> str:
    return " and ".join(event.type for event in events)


def _events_as_dicts(events: Sequence[Event[Fact]]) -> list[dict[str, Any]]:
    return [
        {
            "type": event.type,
            "id": str(event.id),
            "time": plain(event.time),
            **event.data.model_dump(mode="json"),
        }
        for event in events
    ]
