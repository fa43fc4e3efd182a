"""Kafka in memory, as far as relay and consumer lean on it: partitions and their leaders, idempotent
producers, what transactions leave behind, groups.

A batch is there or not. Its acknowledgement may be lost, and who sends it again under the same producer id
and number is recognised; who is new is not. With a new leader a log may have lost its end, and grows anew.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Protocol

from aiokafka.errors import OffsetOutOfRangeError, OutOfOrderSequenceNumber

from choreo.chaos.history import Record as Shown
from choreo.chassis.kafka.aiokafka_internals import AnyRecords, Fetched
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import Record
from choreo.simulation.loop import Process

Turn = Callable[[str], Awaitable[object]]
"""Awaited before each request, with its name, and before its answer: others may go on meanwhile."""

_PRODUCER = Struct(">qhi")
"""In a batch: producer id, its epoch, the number of the first record."""
_PRODUCER_AT = 43


@dataclass(frozen=True, slots=True)
class Placed:
    """What stands at an offset."""

    offset: int
    record: Record
    leader_epoch: int
    time: float
    """Simulated: when it was appended."""
    producer: tuple[int, int] = (-1, -1)
    """Its id, and which of its records this is."""
    digest: bytes = b""
    """Of the record; none of what is hidden."""

    @property
    def is_hidden(self) -> bool:
        """A marker, or aborted: who reads what is committed does not see it."""
        return not self.digest

    @property
    def key(self) -> bytes | None:
        return self.record.key

    @property
    def value(self) -> bytes | None:
        return self.record.value

    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        return tuple(self.record.headers)


@dataclass
class Partition:
    placed: list[Placed] = field(default_factory=list)
    leader_epoch: int = 0
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    """Who fetches and has read all there is."""
    was_before: dict[tuple[int, bytes], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """By offset and digest of what was ever visible here: digests of what was visible last before it."""

    @property
    def end(self) -> int:
        return len(self.placed)

    def append(
        self, record: Record, producer: tuple[int, int] = (-1, -1), *, is_hidden: bool = False
    ) -> None:
        time = asyncio.get_running_loop().time()
        digest = b"" if is_hidden else record.digest
        if digest:
            self.was_before[self.end, digest].add(self.last_visible())
        self.placed.append(Placed(self.end, record, self.leader_epoch, time, producer, digest))
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def last_visible(self) -> bytes:
        """Its digest."""
        return next((one.digest for one in reversed(self.placed) if one.digest), b"")

    def next_number(self, producer_id: int) -> int:
        numbers = (one.producer[1] for one in reversed(self.placed) if one.producer[0] == producer_id)
        return next(numbers, -1) + 1


class Member(Protocol):
    """Of a group."""

    client_id: str

    @property
    def is_alive(self) -> bool: ...

    @property
    def process(self) -> Process: ...

    def assign(self, places: Sequence[TopicPartition]) -> None: ...


class Log:
    reads_committed = True
    """As the services' consumers are told to."""

    def __init__(self, topics: Sequence[str], partitions: int, turn: Turn) -> None:
        self.topics = topics
        self.places = [(topic, number) for topic in topics for number in range(partitions)]
        self.partitions = {place: Partition() for place in self.places}
        self.turn = turn
        self._producers = 0

    def new_producer_id(self) -> int:
        self._producers += 1
        return self._producers

    def append(self, place: TopicPartition, batch: bytes) -> None:
        """What its leader does with a batch. Raises KafkaError where another one is missing before it."""
        partition = self.partitions[place]
        id, _, number = _PRODUCER.unpack_from(batch, _PRODUCER_AT)
        expected = partition.next_number(id)
        if number > expected:
            raise OutOfOrderSequenceNumber(f"{number}, and {expected} is next")
        if number < expected:
            return  # it is there
        read = AnyRecords(batch)
        while read.has_next():
            for record in read.next_batch():
                told = Record(record.key, record.value, list(record.headers))
                partition.append(told, (id, number))
                number += 1

    async def fetch(self, place: TopicPartition, offset: int, limit: int) -> Fetched:
        """From this offset on, once there is something. Raises KafkaError."""
        await self.turn("fetch")
        partition = self.partitions[place]
        if offset > partition.end:
            raise OffsetOutOfRangeError({place: offset})
        while partition.end <= offset:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            partition.waiting.append(arrived)
            await arrived
            if offset > partition.end:
                raise OffsetOutOfRangeError({place: offset})
        found: list[Placed] = []
        end = offset
        for placed in partition.placed[offset:]:
            if len(found) == limit:
                break
            end = placed.offset + 1
            if not (placed.is_hidden and self.reads_committed):
                found.append(placed)
        epochs = [(one.offset, one.leader_epoch) for one in partition.placed[offset:end]]
        return Fetched(found, offset, end, epochs)

    def end(self, place: TopicPartition) -> int:
        return self.partitions[place].end

    def shown(self) -> list[Shown]:
        """For the judge: what is committed."""
        return [
            Shown(*place, one.offset, one.key, one.value, one.headers)
            for place, partition in self.partitions.items()
            for one in partition.placed
            if not one.is_hidden
        ]

    # -- what befalls it -------------------------------------------------------------------------

    def elect(self, place: TopicPartition, lost: int = 0) -> None:
        """A new leader, who lacks so many of the last records."""
        partition = self.partitions[place]
        partition.leader_epoch += 1
        if lost:
            del partition.placed[-lost:]
        waiting, partition.waiting = partition.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def repeat(self, place: TopicPartition, number: int) -> None:
        """So many of the first records once more, as a relay may do."""
        partition = self.partitions[place]
        for placed in [one for one in partition.placed if not one.is_hidden][:number]:
            partition.append(placed.record)

    def leave_marks(self, place: TopicPartition, aborted: Record | None) -> None:
        """What a transaction leaves: what it wrote, if it was aborted, and the marker of its end."""
        partition = self.partitions[place]
        if aborted:
            partition.append(aborted, is_hidden=True)
        partition.append(Record(None, None, []), is_hidden=True)


class Group:
    """The processes of one service, among which the partitions that it reads are divided."""

    def __init__(self, places: Sequence[TopicPartition]) -> None:
        self.members: list[Any] = []
        self.assigned: dict[str, frozenset[TopicPartition]] = {}
        """By client id, as the coordinator has it."""
        self.committed: dict[TopicPartition, int] = {}
        """Offsets that were acknowledged. Nobody's truth."""
        self._places = places

    def join(self, member: Member) -> None:
        self.members.append(member)
        self.divide()

    def leave(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)
            self.assigned.pop(member.client_id, None)
            self.divide()

    def divide(self, turned: int = 0, without: Member | None = None) -> None:
        """Anew, among those that are alive. Who had a partition before goes on until he hears of it."""
        self.members = [member for member in self.members if member.is_alive]
        alive = [member for member in self.members if member is not without]
        self.assigned = {}
        for number, member in enumerate(alive):
            places = self._places[(number + turned) % len(alive) :: len(alive)]
            self.assigned[member.client_id] = frozenset(places)
            member.assign(places)
