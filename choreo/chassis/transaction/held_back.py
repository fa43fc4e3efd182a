"""Inputs that wait for something somebody else holds, so that all the others need not."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from choreo.chassis.transaction.inputs import Heard, Input
from choreo.chassis.transaction.positions import TopicPartition

Name = str | TopicPartition
"""A key, or a topic and partition."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 2.0


@dataclass(slots=True)
class _Stuck:
    cause: str
    since: float
    pause: float
    until: float
    """Before this moment it is not tried again."""


class HeldBack:
    """Keeps the order of every key and of every partition: what comes later waits behind what is held.

    Nothing becomes free by time alone, but when what is due is released. So who comes later finds the same
    things stuck as who came before.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stuck: dict[Name, _Stuck] = {}
        self._tried: dict[Name, _Stuck] = {}
        """What is being tried again, or will be once all else is free that the same input waits for."""
        self._inputs: list[Input] = []
        self._partitions: dict[TopicPartition, int] = {}
        """Those of which something is held, and its first offset."""

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def cause(self) -> str | None:
        """Of what is held up longest."""
        longest = min(self._stuck.values(), key=lambda stuck: stuck.since, default=None)
        return longest.cause if longest else None

    @property
    def pause(self) -> float | None:
        """Seconds until something is to be tried again."""
        return max(0.0, min(one.until for one in self._stuck.values()) - self._now()) if self._stuck else None

    def hold_up(self, causes: Mapping[Name, str]) -> None:
        """These cannot be had now. Each time they could not the pause is longer."""
        now = self._now()
        for name, cause in causes.items():
            before = self._stuck.get(name) or self._tried.pop(name, None)
            pause = min(before.pause * 2, LONGEST_PAUSE_SECONDS) if before else FIRST_PAUSE_SECONDS
            self._stuck[name] = _Stuck(cause, before.since if before else now, pause, now + pause)

    def free(self, names: Iterable[Name]) -> None:
        for name in names if self._stuck or self._tried else ():
            self._stuck.pop(name, None)
            self._tried.pop(name, None)

    def takes(self, input: Input) -> bool:
        """Whether it has to wait; then it is kept."""
        if not self._stuck and not self._partitions:
            return False
        if self._stuck.keys().isdisjoint(_names(input)) and not self._is_behind(input):
            return False
        self._inputs.append(input)
        if isinstance(input, Heard):
            place = input.place
            self._partitions[place] = min(input.offset, self._partitions.get(place, input.offset))
        return True

    def _is_behind(self, input: Input) -> bool:
        """Something is held that was read before it."""
        if not isinstance(input, Heard):
            return False
        first = self._partitions.get(input.place)
        return first is not None and first <= input.offset

    def holds(self, input: Input) -> bool:
        return any(held is input for held in self._inputs)

    def due(self) -> list[Name]:
        """What is worth another try."""
        now = self._now()
        return [name for name, stuck in self._stuck.items() if stuck.until <= now]

    def release(self, others: Sequence[Input] = ()) -> list[Input]:
        """All of them in their order, with others that nobody holds; whoever has to wait still is taken
        again. What is due and nobody waits for any more is forgotten: nothing would ever show that it is
        free.
        """
        inputs, self._inputs = [one for one in (*others, *self._inputs) if not one.done.done()], []
        self._partitions.clear()
        for name in self.due():
            self._tried[name] = self._stuck.pop(name)
        wanted = set().union(*map(_names, inputs))
        self._tried = {name: tried for name, tried in self._tried.items() if name in wanted}
        return _in_order(inputs)


def _in_order(inputs: list[Input]) -> list[Input]:
    """Those of one partition by their offsets: who failed may have come back after who waited behind him."""
    places: dict[TopicPartition, list[int]] = defaultdict(list)
    for at, input in enumerate(inputs):
        if isinstance(input, Heard):
            places[input.place].append(at)
    ordered = list(inputs)
    for where in places.values():
        heard = sorted((inputs[at] for at in where), key=lambda input: cast(Heard, input).offset)
        for at, input in zip(where, heard, strict=True):
            ordered[at] = input
    return ordered


def _names(input: Input) -> set[Name]:
    partitions = {input.place} if isinstance(input, Heard) else set()
    return {*input.keys, *partitions}
