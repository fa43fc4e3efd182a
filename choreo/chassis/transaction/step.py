"""One input through a service's pure functions. Live handling, tests and replay all take this step."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from choreo.message.decider import Command, Decision, Refusal
from choreo.message.envelope import Event, event_id
from choreo.message.fact import Fact

S = TypeVar("S")


@dataclass(frozen=True)
class Decider(Generic[S]):
    """A service as plain functions."""

    service: str
    decide: Callable[[Command, S, datetime], Decision]
    evolve: Callable[[S, Event[Fact]], S]
    react: Callable[[Event[Fact], S], Sequence[Command]]


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
    state = decider.evolve(state, event)
    return _follow(decider, state, decider.react(event, state), event.key, now, sequence + 1)


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
            state = decider.evolve(state, event)
            events.append(event)
            waiting.extend(decider.react(event, state))
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
        step=sequence,
    )
