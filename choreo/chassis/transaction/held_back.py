"""Inputs that wait for something somebody else holds, so that all the others need not."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from choreo.chassis.transaction.inputs import Heard, Input
from choreo.chassis.transaction.positions import TopicPartition

Name = str | TopicPartition
"""A key, or a topic and partition."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 2.0


@dataclass(slots=True)
class _Stuck:
    cause: str
    pause: float
    until: float
    """Before this moment it is not tried again."""


class HeldBack:
    """Keeps the order of every key and of every partition: what comes later waits behind what is held."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stuck: dict[Name, _Stuck] = {}
        self._inputs: list[Input] = []
        self._partitions: set[TopicPartition] = set()
        self._tried_at = -inf
        """What was due then is tried, and where somebody waits for it still, he waits for something else."""

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def cause(self) -> str | None:
        """Of what is held up longest."""
        return next((stuck.cause for stuck in self._stuck.values()), None)

    @property
    def pause(self) -> float | None:
        """Seconds until something is to be tried again."""
        later = [one.until for one in self._stuck.values() if one.until > self._tried_at]
        return max(0.0, min(later) - self._now()) if later else None

    def hold_up(self, causes: Mapping[Name, str]) -> None:
        """These cannot be had now. Each time they could not the pause is longer."""
        for name, cause in causes.items():
            before = self._stuck.get(name)
            pause = min(before.pause * 2, LONGEST_PAUSE_SECONDS) if before else FIRST_PAUSE_SECONDS
            self._stuck[name] = _Stuck(cause, pause, self._now() + pause)

    def free(self, names: Iterable[Name]) -> None:
        for name in names if self._stuck else ():
            self._stuck.pop(name, None)

    def takes(self, input: Input) -> bool:
        """Whether it has to wait; then it is kept."""
        if not self._stuck and not self._partitions:
            return False
        partition = (input.topic, input.partition) if isinstance(input, Heard) else None
        if partition not in self._partitions and not any(map(self._is_stuck, (*input.keys, partition))):
            return False
        self._inputs.append(input)
        if partition:
            self._partitions.add(partition)
        return True

    def _is_stuck(self, name: Name | None) -> bool:
        stuck = self._stuck.get(name) if name else None
        return stuck is not None and self._now() < stuck.until

    def due(self) -> list[Name]:
        """What is worth another try."""
        return [name for name, stuck in self._stuck.items() if stuck.until <= self._now()]

    def release(self) -> list[Input]:
        """All of them in their order; whoever has to wait still is taken again. What is due and nobody waits
        for any more is forgotten: nothing would ever show that it is free.
        """
        inputs, self._inputs = [input for input in self._inputs if not input.done.done()], []
        self._partitions.clear()
        self._tried_at = self._now()
        self.free(set(self.due()).difference(*map(_names, inputs)))
        return inputs


def _names(input: Input) -> set[Name]:
    partitions = {(input.topic, input.partition)} if isinstance(input, Heard) else set()
    return {*input.keys, *partitions}
