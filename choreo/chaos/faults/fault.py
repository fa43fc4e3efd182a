"""What a fault is: it has a name, a sentence, and a moment when it is over. And what faults have in common.

A fault strikes from the main thread while the load runs in another. It waits for signals wherever there are
any: a failpoint's file that is gone, a member that Kafka no longer counts, a part that has another pid.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from confluent_kafka.admin import AdminClient

from choreo.chassis.registry import all_topics
from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import observer_access

RECOVERY_TIMEOUT_SECONDS = 30.0
"""Seconds after a fault within which all must be well again. That much is promised."""
CAUGHT_UP_WITHIN_SECONDS = 60.0
"""For a broker that was away, to have what the others have."""
_LOOK_AGAIN = 0.05


class NotInTime(Unavailable):
    """What had to happen did not. The message says what that was."""


Strike = Callable[[ThrowawaySystem, Random], float]
"""Does harm, and leaves off. Returns the moment (monotonic) since when nothing is in the way any more.

What was killed is there again by then; where that is everything, it has said that it is ready.
Raises `Unavailable`, and `NotInTime` as one.
"""


@dataclass(frozen=True)
class Fault:
    name: str
    sentence: str
    strike: Strike
    kills: int = 0
    stops: int = 0
    repeats: bool = False
    """Whether records are published again for certain."""
    brokers: int = 1
    """Of how many the system has to be."""
    judged: bool = True
    """Whether everything is handled and whole afterwards. Where it cannot be, the fault has a system of its
    own and says itself what was not as it must be.
    """


def pid_of(system: ThrowawaySystem, part: str) -> int:
    return int(system.run_file["pids"][part])


def until(happened: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise NotInTime(f"{otherwise} within {seconds:.0f} s")
        time.sleep(_LOOK_AGAIN)


def replaced(system: ThrowawaySystem, part: str, before: int) -> float:
    """Returns the moment it was called, once the part is there again: a process that is dead harms nobody."""
    since = time.monotonic()
    until(lambda: pid_of(system, part) != before, RECOVERY_TIMEOUT_SECONDS, f"{part} was not there again")
    return since


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def ended(system: ThrowawaySystem, part: str, by: signal.Signals) -> Iterator[None]:
    """Nobody starts it again before the block is left."""
    with suspended(system.supervisor_pid):
        os.kill(pid_of(system, part), by)
        yield


def _partitions(system: ThrowawaySystem) -> list[Any]:
    """Of all topics of the system, as Kafka describes them now."""
    facts = system.run_file
    told = (
        AdminClient(observer_access(facts).confluent()).list_topics(timeout=RECOVERY_TIMEOUT_SECONDS).topics
    )
    topics = [told[topic] for topic in all_topics(facts["topic_prefix"])]
    return [partition for topic in topics for partition in topic.partitions.values()]


def leaders(system: ThrowawaySystem) -> set[int]:
    return {partition.leader for partition in _partitions(system)}


def all_in_sync(system: ThrowawaySystem) -> bool:
    return all(len(partition.isrs) == len(partition.replicas) for partition in _partitions(system))
