"""Kafka in memory, as far as relay and consumer lean on it: partitions, one idempotent producer each, groups.

A batch is there or not. Its acknowledgement may be lost, and who sends it again under the same producer id
and number is recognised; who is new is not.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from choreo.chaos.history import Record as Shown
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.message.codec import Record
from choreo.simulation.database import Turn


@dataclass(frozen=True)
class Chunk:
    """What a fetch brings, as `Handover` reads it."""

    begin: int
    end: int
    records: Sequence["Placed"]

    def __iter__(self) -> Iterator["Placed"]:
        return iter(self.records)

    def leader_epoch(self, offset: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Placed:
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Member(Protocol):
    """Of a group."""

    @property
    def is_alive(self) -> bool: ...

    def assign(self, places: Sequence[TopicPartition]) -> None: ...


@dataclass
class _Partition:
    records: list[Record] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    """By producer id the number that its next record has."""
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    """Who fetches and has read all there is."""


class Log:
    def __init__(self, topics: Sequence[str], partitions: int, turn: Turn) -> None:
        self.places = [(topic, number) for topic in topics for number in range(partitions)]
        self.turn = turn
        self._partitions: dict[TopicPartition, _Partition] = defaultdict(_Partition)
        self._producers = 0

    def new_producer_id(self) -> int:
        self._producers += 1
        return self._producers

    async def produce(
        self, place: TopicPartition, producer: tuple[int, int], records: Sequence[Record]
    ) -> None:
        """`producer`: id, and the number of the first record. Raises OSError, and nobody knows whether it is
        there.
        """
        await self.turn("produce")
        partition = self._partitions[place]
        id, number = producer
        if number >= partition.numbers.get(id, 0):
            partition.records += records
            partition.numbers[id] = number + len(records)
            waiting, partition.waiting = partition.waiting, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        await self.turn("acknowledge")

    async def fetch(self, place: TopicPartition, offset: int, limit: int) -> Chunk:
        """From this offset on, once there is something. Raises OSError."""
        await self.turn("fetch")
        partition = self._partitions[place]
        while len(partition.records) <= offset:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            partition.waiting.append(arrived)
            await arrived
        found = partition.records[offset : offset + limit]
        placed = [
            Placed(offset + number, record.key, record.value, tuple(record.headers))
            for number, record in enumerate(found)
        ]
        return Chunk(offset, offset + len(placed), placed)

    def end(self, place: TopicPartition) -> int:
        return len(self._partitions[place].records)

    def begin(self, place: TopicPartition) -> Position:
        return Position(*place, 0, place[0], "simulated")

    def shown(self) -> list[Shown]:
        """For the judge."""
        return [
            Shown(*place, offset, record.key, record.value, tuple(record.headers))
            for place in self.places
            for offset, record in enumerate(self._partitions[place].records)
        ]


class Group:
    """The processes of one service, among which the partitions that it reads are divided."""

    def __init__(self, places: Sequence[TopicPartition]) -> None:
        self.members: list[Member] = []
        self._places = places

    def divide(self, turned: int = 0, without: Member | None = None) -> None:
        """Anew, among those that are alive. Who had a partition before goes on until he hears of it."""
        alive = [member for member in self.members if member.is_alive and member is not without]
        for number, member in enumerate(alive):
            member.assign(self._places[(number + turned) % len(alive) :: len(alive)])
