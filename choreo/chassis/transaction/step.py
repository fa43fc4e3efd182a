"""One input through a service's pure functions. Live handling, tests and replay all take this step."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from choreo.message.decider import Command, Decision, Refusal
from choreo.message.envelope import Event, event_id
from choreo.message.fact import Fact
from choreo.message.state import SHARED_FACTS
from choreo.message.state import evolve as evolve_shared

S = TypeVar("S")


@dataclass(frozen=True)
class Decider(Generic[S]):
    """A service as plain functions, which are given its own kinds of commands and facts and no others."""

    service: str
    decide: Callable[[Any, S, datetime], Decision]
    evolve: Callable[[S, Event[Any]], S]
    react: Callable[[Event[Any], S], Sequence[Command]] | None = None
    """None where nothing follows from any fact."""

    def evolve_of(self, fact: type[Fact]) -> Callable[[S, Event[Any]], S]:
        """Returns what applies facts of this type: the chassis' function for those every service keeps."""
        return evolve_shared if fact in SHARED_FACTS else self.evolve  # type: ignore[return-value]

    def applied(self, state: S, event: Event[Fact]) -> S:
        """Returns the state after this fact."""
        return self.evolve_of(type(event.data))(state, event)

    def reactions(self, event: Event[Fact], state: S) -> Sequence[Command]:
        """Returns what the service wants decided because of this fact."""
        if self.react is None or type(event.data) in SHARED_FACTS:
            return ()
        return self.react(event, state)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """What came of one input: the state after it, and the service's own events in order."""

    state: S
    sequence: int
    """The key's number after the last fact."""
    events: tuple[Event[Fact], ...] = ()
    refusal: Refusal | None = None


def hear(decider: Decider[S], state: S, event: Event[Fact], now: datetime, sequence: int) -> Outcome[S]:
    """Applies a heard event and decides what follows from it. `sequence` is the key's number so far."""
    event = event.applied_as(sequence + 1)
    state = decider.applied(state, event)
    return _follow(decider, state, decider.reactions(event, state), event.key, now, sequence + 1)


def obey(decider: Decider[S], state: S, command: Command, now: datetime, sequence: int) -> Outcome[S]:
    """Decides a command that came from outside. A refusal leaves state and sequence as they were."""
    return _follow(decider, state, [command], command.key, now, sequence)


def _follow(
    decider: Decider[S], state: S, commands: Iterable[Command], key: str, now: datetime, sequence: int
) -> Outcome[S]:
    events: list[Event[Fact]] = []
    refusal: Refusal | None = None
    results: dict[tuple[UUID, str], int] = {}
    waiting = deque(commands)
    while waiting:
        command = waiting.popleft()
        decision = decider.decide(command, state, now)
        if isinstance(decision, Refusal):
            refusal = decision
            continue
        for fact in decision:
            sequence += 1
            event = _own_event(decider.service, command, fact, now, sequence, results)
            if event.key != key:
                raise ValueError(f"{event.type} of key {event.key} was decided while {key} was locked")
            state = decider.applied(state, event)
            events.append(event)
            waiting.extend(decider.reactions(event, state))
    return Outcome(state, sequence, tuple(events), refusal)


def _own_event(
    service: str,
    command: Command,
    fact: Fact,
    now: datetime,
    sequence: int,
    results: dict[tuple[UUID, str], int],
) -> Event[Fact]:
    cause, type_ = command.cause, type(fact).__name__
    number = results.get((cause.id, type_), 0)
    results[cause.id, type_] = number + 1
    return Event(
        id=event_id(service, cause.id, type_, number),
        source=service,
        time=now,
        key=fact.key,
        sequence=sequence,
        correlation_id=cause.correlation_id,
        causation_id=cause.id if cause.is_event else None,
        trace_id=cause.trace_id,
        data=fact,
        applied_sequence=sequence,
    )
