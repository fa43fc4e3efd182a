"""A service in memory: its decider and its rows, without database, broker and HTTP.

Each input takes the very step the kernel takes (`choreo/chassis/transaction/step.py`), on the very
rows the kernel would load. Of a long log those that nobody needed lately are on disk.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter

from choreo.chassis.service import Service
from choreo.chassis.transaction.state_store import Memory, TableMapping
from choreo.chassis.transaction.step import Decider, Outcome, hear, obey
from choreo.message.codec import Undecodable
from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.on_disk import OnDisk, rows_on_disk

S = TypeVar("S")

Row = tuple[str, Any]
"""A mapping's field and a primary key."""

Put = tuple[TableMapping, Any | None, Any, Event[Fact], S]
"""A row that was written: where, what it was (None: a new one), what it is, by which fact, and the state that
this fact met.
"""


@dataclass(frozen=True)
class _Watched(Decider[S]):
    """Keeps a trail of what it applies."""

    trail: list[tuple[Event[Fact], S]] = field(default_factory=list)

    def applied(self, state: S, event: Event[Fact]) -> S:
        state = super().applied(state, event)
        self.trail.append((event, state))
        return state


@dataclass(frozen=True, slots=True)
class Taken(Generic[S]):
    """An input and the state it meets. `run` changes nothing, so it may be called several times."""

    service: Service[S]
    input: Event[Fact] | Command | Undecodable
    """A record that is no event raises what it is instead."""
    state: S
    now: datetime
    sequence: int
    """The key's number before it."""
    trail: list[tuple[Event[Fact], S]] = field(default_factory=list)
    """The facts that were evolved by the last run, each with the state after it."""

    def run(self) -> Outcome[S]:
        """Takes the step. Raises what a handler raises."""
        self.trail.clear()
        if isinstance(self.input, Undecodable):
            raise self.input
        own = self.service.decider
        decider = _Watched(own.service, own.decide, own.evolve, own.react, self.trail)
        if isinstance(self.input, Event):
            return hear(decider, self.state, self.input, self.now, self.sequence)
        return obey(decider, self.state, self.input, self.now, self.sequence)

    def puts(self) -> list[Put[S]]:
        """Returns the rows that its last run writes."""
        puts: list[Put[S]] = []
        before = self.state
        for event, after in self.trail:
            for mapping in self.service.store.mappings:
                if getattr(before, mapping.field) is getattr(after, mapping.field):
                    continue
                added, changed = mapping.differences(before, after)
                puts += [(mapping, None, row, event, before) for row in added]
                puts += [(mapping, old, row, event, before) for old, row in changed]
            before = after
        return puts


class InMemoryService(Generic[S]):
    def __init__(self, service: Service[S], *, on_disk: bool = True) -> None:
        """Without `on_disk` all rows are in memory, as they must be where nothing may be opened."""
        self.service = service
        self.memory = Memory(service.store.mappings, rows_on_disk if on_disk else lambda mapping: {})
        self.sequences: dict[str, int] = {}
        """By key: the number of the last fact applied."""
        self._commands = {command.__name__: _validator(command) for command in service.commands}

    def command(self, type_: str, fields: dict[str, Any]) -> Command:
        """Reads a command as the journal has it. Raises LookupError where it is unknown, ValueError."""
        command: Command = self._commands[type_].validate_python(fields)
        return command

    def skip(self, key: str, step: int) -> None:
        """Goes on to this step of the key, where the inputs that made those before it were left out."""
        self.sequences[key] = max(self.sequences.get(key, 0), step)

    def take(self, key: str, input: Event[Fact] | Command | Undecodable, now: datetime) -> Taken[S]:
        """Loads the state that the input meets. Nothing happens yet."""
        content = input.data if isinstance(input, Event) else input
        state = self.service.store.from_memory(self.memory, key, content)
        return Taken(self.service, input, state, now, self.sequences.get(key, 0))

    def afresh(self, service: Service[S]) -> "InMemoryService[S]":
        """Returns the same rows and numbers in the hands of a service that was imported anew."""
        other = InMemoryService(service)
        other.sequences = self.sequences
        for old, new in zip(self.service.store.mappings, service.store.mappings, strict=True):
            rows, before = other.memory.rows(new), self.memory.rows(old)
            assert isinstance(rows, OnDisk) and isinstance(before, OnDisk)
            rows.take_over(before, new.own)
            for key in self.sequences:
                for row in self.memory.with_key(old, key).values():
                    other.memory.put(new, new.own(row))
        return other

    def fold(self, key: str, event: Event[Fact]) -> Taken[S]:
        """Loads the state that a fact meets, heard or own, from which nothing is decided anew."""
        decider = replace(self.service.decider, react=None)
        state = self.service.store.from_memory(self.memory, key, event.data)
        folding = replace(self.service, decider=decider)
        return Taken(folding, event, state, event.time, event.applied_sequence - 1)

    def keep(self, key: str, taken: Taken[S]) -> list[Put[S]]:
        """Writes what the kernel would write after its last run."""
        puts = taken.puts()
        for event, _ in taken.trail:
            self.sequences[key] = event.applied_sequence
        for mapping, _, row, _, _ in puts:
            self.memory.put(mapping, row)
        return puts


def refusal_as_dict(outcome: Outcome[Any]) -> dict[str, Any] | None:
    """Returns the refusal as the journal has it."""
    if outcome.refusal is None:
        return None
    refusal: dict[str, Any] = orjson.loads(
        orjson.dumps({"type": type(outcome.refusal).__name__, **outcome.refusal.numbers})
    )
    return refusal


@cache
def _validator(command: type[Command]) -> Any:
    """Makes it once: that takes longer than many steps."""
    return TypeAdapter(command).validator
