"""Who is in a service's consumer group: its own processes, and nobody else."""

import asyncio
from collections.abc import Mapping
from typing import Protocol
from uuid import uuid4

from choreo.chassis.kafka.cluster import Group, Member
from choreo.chassis.kafka.topic_log import PartitionLog
from choreo.chassis.transaction.positions import Position, TopicPartition

STALLED_SECONDS = 10.0
"""What could be read and was not for so long is read by a new session."""
_SETTLED = ("Stable", "Empty", "Dead")
"""States of a group in which Kafka says who reads what, and nothing is about to change."""

Positions = Mapping[TopicPartition, Position]
Log = Mapping[TopicPartition, PartitionLog]


class Stalled(Exception):
    """There is something to read and nothing is read. The message says where."""


class Busy(Protocol):
    """What a session has handed over."""

    def is_busy_with(self, place: TopicPartition) -> bool: ...


class Unread:
    """What a session has not read and nobody else will: of partitions it has, and of those nobody has.

    Faust asks aiokafka for records only while it believes it has partitions, and aiokafka gives up in ways
    Faust does not hear of. So whether a session reads is seen from outside, by what comes of it.
    """

    def __init__(self, client_id: str, handover: Busy) -> None:
        self._client_id = client_id
        self._handover = handover
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        """By partition: the position, and since when it is that while nothing is on its way."""

    def look(self, known: Positions, there: Log, group: Group) -> int:
        """How many records. Raises `Stalled`."""
        now = asyncio.get_running_loop().time()
        held = {place: member.client_id for member in group.members for place in member.partitions}
        waiting, before, self._since = 0, self._since, {}
        for place, partition in there.items() if group.state in _SETTLED else ():
            position = known[place].next_offset if place in known else 0
            if position >= partition.stable or held.get(place, self._client_id) != self._client_id:
                continue
            waiting += partition.stable - position
            if self._handover.is_busy_with(place):
                continue
            self._since[place] = before[place] if before.get(place, (-1,))[0] == position else (position, now)
            if (seconds := now - self._since[place][1]) > STALLED_SECONDS:
                raise Stalled(
                    f"{place[0]}[{place[1]}] has {partition.stable - position} records for "
                    f"{self._client_id}, and none was read for {seconds:.0f} s"
                )
        return waiting


def new_client_id(service: str) -> str:
    """By which a process of this service is known in its group, for one session."""
    return f"{_prefix(service)}{uuid4().hex[:12]}"


def strangers(service: str, group: Group) -> list[str]:
    """Each as a sentence. What such a one is given this service does not hear."""
    return [
        f"{member.client_id} at {member.host.lstrip('/')} is in the consumer group of {service}, is none of "
        f"its processes and holds {_told(member)}: stop it, or give it a group of its own"
        for member in group.members
        if not member.client_id.startswith(_prefix(service))
    ]


def _prefix(service: str) -> str:
    return f"choreo.{service}."


def _told(member: Member) -> str:
    count = len(member.partitions)
    return f"{count} partition{'' if count == 1 else 's'}"
