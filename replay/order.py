"""The order in which a service applied a key's facts, told from Kafka alone, without its journal.

Every fact takes the next step of its key, and a service's own facts carry theirs. So between two of them it
heard exactly as many facts as steps are missing. Which ones, three rules say: of one topic in the order of
offsets; what a fact follows from right before it, unless it was waiting; and what leads to a fact later on
not before its time. Heard facts of different topics in one gap may be in either order: they must commute,
and which of them has which step stays a guess.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from events.envelope import Event
from events.fact import Fact


class Unordered(Exception):
    """The facts do not fit into the steps that are there: some are missing, or were taken out of turn, as
    parked ones are. The message says where."""


def in_steps(own: Sequence[Event[Fact]], heard: Mapping[str, Sequence[Event[Fact]]]) -> list[Event[Fact]]:
    """All facts of one key with their steps. `heard` are by topic, in the order of offsets; each fact once.

    Heard facts after the last own one come last. Raises `Unordered`.
    """
    queues = {topic: deque(events) for topic, events in sorted(heard.items())}
    decides = {event.causation_id for event in own}
    applied: list[Event[Fact]] = []
    for fact in sorted(own, key=lambda event: event.sequence):
        before = _through(queues, fact.causation_id)
        free = fact.sequence - 1 - len(applied) - len(before)
        if free < 0:
            raise Unordered(f"{fact.type} {fact.id} has step {fact.sequence}, and more was heard before it")
        applied += [*_free(queues, decides, free, fact), *before, fact]
    for queue in queues.values():
        applied += queue
    return [replace(event, step=step) for step, event in enumerate(applied, start=1)]


def _through(queues: Mapping[str, "deque[Event[Fact]]"], cause: UUID | None) -> list[Event[Fact]]:
    """The topic's facts up to the cause; none if it was taken before, or is no heard fact."""
    for queue in queues.values():
        if any(event.id == cause for event in queue):
            taken = [queue.popleft()]
            while taken[-1].id != cause:
                taken.append(queue.popleft())
            return taken
    return []


def _free(
    queues: Mapping[str, "deque[Event[Fact]]"], decides: set[UUID | None], count: int, fact: Event[Fact]
) -> list[Event[Fact]]:
    """So many facts that lead to nothing; or, where those are too few, to something that had to wait."""
    taken: list[Event[Fact]] = []
    while len(taken) < count:
        waiting = [queue for queue in queues.values() if queue]
        if not waiting:
            missing = count - len(taken)
            raise Unordered(f"{missing} facts are missing before {fact.type} {fact.id}, step {fact.sequence}")
        idle = [queue for queue in waiting if queue[0].id not in decides]
        taken.append((idle or waiting)[0].popleft())
    return taken
