"""A service in memory: its decider and its rows, without database, broker and HTTP.

Each input takes the very step the kernel takes (`chassis/step.py`), on the very rows the kernel would load.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from chassis.service import Service
from chassis.shelf import Memory
from chassis.step import Step, hear, obey
from events.codec import Undecodable
from events.decider import Command
from events.envelope import Event
from events.fact import Fact

S = TypeVar("S")

Row = tuple[str, Any]
"""A shelf's field and a primary key."""


@dataclass(slots=True)
class Written:
    """Who wrote a row: facts by id and type."""

    made: tuple[UUID, str]
    changed: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    """By column, for those that have another value since."""

    def last(self, column: str) -> tuple[UUID, str]:
        return self.changed.get(column, self.made)


@dataclass(frozen=True, slots=True)
class Taken(Generic[S]):
    """An input that is about to be taken. `run` may be called again and again: nothing is changed by it."""

    service: Service[S]
    input: Event[Fact] | Command | Undecodable
    """A record that is no event raises what it is instead."""
    state: S
    now: datetime
    sequence: int
    """The key's number before it."""
    trail: list[tuple[Event[Fact], S]] = field(default_factory=list)
    """The facts that were evolved by the last run, each with the state after it."""

    def run(self) -> Step[S]:
        """Raises what a handler raises."""
        self.trail.clear()
        if isinstance(self.input, Undecodable):
            raise self.input
        decider = replace(self.service.decider, evolve=self._evolve)
        if isinstance(self.input, Event):
            return hear(decider, self.state, self.input, self.now, self.sequence)
        return obey(decider, self.state, self.input, self.now, self.sequence)

    def _evolve(self, state: S, event: Event[Fact]) -> S:
        state = self.service.decider.evolve(state, event)
        self.trail.append((event, state))
        return state


class Shadow(Generic[S]):
    def __init__(self, service: Service[S]) -> None:
        self.service = service
        self.memory = Memory(service.shelves.shelves)
        self.sequences: dict[str, int] = {}
        """By key: the number of the last fact applied."""
        self.written: dict[Row, Written] = {}
        self._commands = {command.__name__: _adapter(command) for command in service.obeys}

    def command(self, type_: str, fields: dict[str, Any]) -> Command:
        """As the journal has it. Raises LookupError for one that today's code does not know, ValueError."""
        command: Command = self._commands[type_].validate_python(fields)
        return command

    def skip(self, key: str, step: int) -> None:
        """On to this step of the key, where the inputs that made those before it were left out."""
        self.sequences[key] = max(self.sequences.get(key, 0), step)

    def take(self, key: str, input: Event[Fact] | Command | Undecodable, now: datetime) -> Taken[S]:
        """The state it meets. Nothing happens yet."""
        content = input.data if isinstance(input, Event) else input
        state = self.service.shelves.recall(self.memory, key, content)
        return Taken(self.service, input, state, now, self.sequences.get(key, 0))

    def keep(self, key: str, taken: Taken[S]) -> None:
        """Writes what the kernel would write after its last run."""
        before = taken.state
        for event, after in taken.trail:
            for shelf in self.service.shelves.shelves:
                added, changed = shelf.differences(before, after)
                for row in added:
                    self.memory.put(shelf, row)
                    self.written[shelf.field, shelf.name_of(row)] = Written((event.id, event.type))
                for row in changed:
                    name = shelf.name_of(row)
                    old = self.memory.named(shelf, name)
                    self.memory.put(shelf, row)
                    written = self.written[shelf.field, name].changed
                    for column in map(str, shelf.table.columns.keys()):
                        if getattr(row, column) != getattr(old, column):
                            written[column] = event.id, event.type
            before = after
            self.sequences[key] = event.step


@cache
def _adapter(command: type[Command]) -> TypeAdapter[Any]:
    """Made once: that takes longer than many steps."""
    return TypeAdapter(command)
