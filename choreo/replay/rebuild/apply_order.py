"""The order in which a service applied a key's facts, told from Kafka alone, without its journal.

Every fact takes the next step of its key, and a service's own facts carry theirs. So the steps that no own
fact has are those of heard facts. They are filled from the last to the first, by these rules: a topic's facts
stay in the order of their offsets; what leads to an own fact comes before it; where it can have come right
before it, it has. No clock is asked.

What is left open is which of two heard facts of different topics came first, between two own facts. Rows
must not depend on that, but for the number of the step itself: so each fact is told with the steps it can
have had. The user service's facts are then taken to have come first, as they mostly do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from uuid import UUID

from choreo.message.envelope import Event
from choreo.message.fact import Fact

Steps = dict[UUID, int]
"""By event."""


class Unordered(Exception):
    """The facts do not fit into the steps that are there: some are missing, or too many. Says which."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A fact with its step."""

    event: Event[Fact]
    earliest: int
    latest: int
    """The steps between which it lies for certain; where both are the same it is known."""

    @property
    def is_certain(self) -> bool:
        return self.earliest == self.latest


def in_steps(
    own: Sequence[Event[Fact]], heard: Mapping[str, Sequence[Event[Fact]]], last: int
) -> list[Applied]:
    """Returns all facts of one key in the order of their steps, from 1 to `last`.

    `heard` are by topic, the user service's first, in the order of offsets. Each fact is there once. Raises
    `Unordered`.
    """
    decided = {event.sequence: event for event in own}
    if len(decided) < len(own):
        raise Unordered("two of its facts have the same step")
    queues = {topic: events for topic, events in heard.items() if events}
    free = [step for step in range(last, 0, -1) if step not in decided]
    there = sum(map(len, queues.values()))
    if len(decided) + len(free) != last or there != len(free):
        raise Unordered(
            f"of its {last} steps {len(decided)} are its own, and {there} facts heard do not make {len(free)}"
        )
    due: dict[UUID | None, int] = {}
    for event in own:
        due[event.causation_id] = min(event.sequence, due.get(event.causation_id, event.sequence))
    steps = _filled(free, queues, due, list(reversed(queues)), at_once=True)
    earliest, latest = steps, steps
    if len(queues) > 1:
        earliest, latest = _bounds(free, queues, due)
    applied = [Applied(event.applied_as(step), step, step) for step, event in decided.items()]
    for events in queues.values():
        for event in events:
            id = event.id
            applied.append(Applied(event.applied_as(steps[id]), earliest[id], latest[id]))
    return sorted(applied, key=lambda one: one.event.applied_sequence)


def _bounds(
    free: Sequence[int], queues: Mapping[str, Sequence[Event[Fact]]], due: Mapping[UUID | None, int]
) -> tuple[Steps, Steps]:
    """Returns the lowest and the highest step of each fact. From the back, the first taken is the latest."""
    earliest: Steps = {}
    latest: Steps = {}
    for topic, events in queues.items():
        others = [other for other in queues if other != topic]
        late = _filled(free, queues, due, [topic, *others])
        early = _filled(free, queues, due, [*others, topic])
        latest |= {event.id: late[event.id] for event in events}
        earliest |= {event.id: early[event.id] for event in events}
    return earliest, latest


def _filled(
    free: Iterable[int],
    queues: Mapping[str, Sequence[Event[Fact]]],
    due: Mapping[UUID | None, int],
    prefer: Sequence[str],
    at_once: bool = False,
) -> Steps:
    """Gives each of the steps, the last one first, to the end of a topic that may have it.

    Whichever that is: the others still fit, as they may have any step below as well. `at_once` prefers what
    leads to the very next fact.
    """
    steps: Steps = {}
    left = {topic: len(queues[topic]) for topic in prefer}
    for step in free:
        best: tuple[str, UUID] | None = None
        for topic in prefer:
            if not left[topic]:
                continue
            id = queues[topic][left[topic] - 1].id
            limit = due.get(id, inf)
            if step < limit and (best is None or (at_once and limit == step + 1)):
                best = topic, id
        if best is None:
            raise Unordered(f"nothing that was heard can have step {step}: it led to something before that")
        steps[best[1]] = step
        left[best[0]] -= 1
    return steps
