"""Kafka in memory, as far as relay and consumer lean on it: partitions and their leaders, idempotent
producers, transactions of others, groups. `tests/choreography/test_logs.py` has the same rules of Kafka.

A batch is there or not. Its acknowledgement may be lost, and who sends it again under the same producer id
and number is recognised; who is new is not. With a new leader a log may have lost its end, and grows anew.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple, Protocol

from aiokafka.errors import (
    InvalidProducerEpoch,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumber,
    UnknownMemberIdError,
)

from choreo.chaos.history import Record as Shown
from choreo.chassis.kafka.aiokafka_internals import AnyRecords, Fetched
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.message.codec import Record
from choreo.simulation.loop import Process

Turn = Callable[[str], Awaitable[object]]
"""Awaited before each request, with its name, and before its answer: others may go on meanwhile."""

_PRODUCER = Struct(">qhi")
"""In a batch: producer id, its epoch, the number of the first record."""
_PRODUCER_AT = 43
_SEQUENCE_NUMBERS = 2**31
_REMEMBERED_BATCHES = 5
"""So many of a producer's last batches are recognised when they come again."""


class Batch(NamedTuple):
    """What was appended at once: it is kept, or cut off, as one."""

    begin: int
    producer_id: int = -1
    producer_epoch: int = -1
    first: int = -1
    last: int = -1
    """Its producer's numbers of its first and last record."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What stands at an offset."""

    offset: int
    record: Record
    leader_epoch: int
    time: float
    """Simulated: when it was appended."""
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
    """By offset: also those before `begin`, which nobody is given."""
    batches: list[Batch] = field(default_factory=list)
    begin: int = 0
    leader_epoch: int = 0
    open: dict[object, int] = field(default_factory=dict)
    """Where transactions begin that have not ended."""
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    """Who fetches and has read all there is."""
    was_before: dict[tuple[int, bytes], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """By offset and digest of what was ever visible here: digests of what was visible last before it."""

    has_been_cut: bool = False
    """Whether it ever lost what was acknowledged."""

    @property
    def end(self) -> int:
        return len(self.placed)

    @property
    def stable(self) -> int:
        """Where the first transaction begins that is still open, as far as it is not forgotten."""
        return max(self.begin, min(self.open.values(), default=self.end))

    def begin_as(self, other: "Partition") -> None:
        """With what stands there, where no transaction is open."""
        self.placed += other.placed
        self.batches += other.batches
        self.was_before.update({at: set(before) for at, before in other.was_before.items()})

    def append(
        self, records: Sequence[Record], batch: Batch | None = None, *, is_hidden: bool = False
    ) -> None:
        time = asyncio.get_running_loop().time()
        self.batches.append(batch or Batch(self.end))
        for record in records:
            digest = b"" if is_hidden else record.digest
            if digest:
                self.was_before[self.end, digest].add(self.last_visible())
            self.placed.append(Placed(self.end, record, self.leader_epoch, time, digest))
        self.wake()

    def wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def last_visible(self) -> bytes:
        """Its digest."""
        return next((one.digest for one in reversed(self.placed) if one.digest), b"")

    def has(self, read: Position) -> bool:
        """What was read up to there, as far as that is not forgotten."""
        last = self.placed[read.last_offset : read.last_offset + 1]
        end = self.placed[read.next_offset - 1 : read.next_offset]
        if self.begin <= read.last_offset and not (last and last[0].digest == read.last_digest):
            return False
        return read.next_offset <= self.begin or bool(end and end[0].leader_epoch == read.end_epoch)

    def is_repeat(self, sent: Batch) -> bool:
        """Whether it is there. Raises KafkaError where it may not follow what its producer has sent.

        Whose batches are all gone, or who is new, may begin with any number.
        """
        known = (one for one in reversed(self.batches) if one.producer_id == sent.producer_id)
        newest = list(islice(known, _REMEMBERED_BATCHES))
        if not newest:
            return False
        epoch, last = newest[0].producer_epoch, newest[0].last
        if sent.producer_epoch < epoch:
            raise InvalidProducerEpoch(f"{sent.producer_epoch}, and {epoch} is newer")
        if any(one[1:] == sent[1:] for one in newest):
            return True
        expected = (last + 1) % _SEQUENCE_NUMBERS if sent.producer_epoch == epoch else 0
        if sent.first != expected:
            raise OutOfOrderSequenceNumber(f"{sent.first}, and {expected} is next")
        return False

    def cut(self, lost: int) -> None:
        """So many of the last records, and what was sent with the first of these."""
        end = self.end - lost
        self.has_been_cut |= lost > 0
        while self.batches and self.end > end:
            del self.placed[self.batches.pop().begin :]
        self.open = {one: begin for one, begin in self.open.items() if begin < self.end}
        self.begin = min(self.begin, self.end)


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
        self.producers = 0
        """So many have been given an id."""

    def new_producer_id(self) -> int:
        self.producers += 1
        return self.producers

    def append(self, place: TopicPartition, batch: bytes) -> None:
        """What its leader does with a batch. Raises KafkaError where it may not follow what is there."""
        partition = self.partitions[place]
        read = AnyRecords(batch)
        sent = [record for _ in iter(read.has_next, False) for record in read.next_batch()]
        records = [Record(record.key, record.value, list(record.headers)) for record in sent]
        id, epoch, first = _PRODUCER.unpack_from(batch, _PRODUCER_AT)
        last = (first + len(records) - 1) % _SEQUENCE_NUMBERS
        new = Batch(partition.end, id, epoch, first, last)
        if not partition.is_repeat(new):
            partition.append(records, new)

    async def fetch(self, place: TopicPartition, offset: int, limit: int) -> Fetched:
        """From this offset on, once there is something. Raises KafkaError."""
        await self.turn("fetch")
        partition = self.partitions[place]
        while True:
            if not partition.begin <= offset <= partition.end:
                raise OffsetOutOfRangeError({place: offset})
            readable = partition.stable if self.reads_committed else partition.end
            if offset < readable:
                break
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            partition.waiting.append(arrived)
            await arrived
        found: list[Placed] = []
        end = offset
        for placed in partition.placed[offset:readable]:
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
        """A new leader, who lacks so many of the last records, or as many as came with those."""
        partition = self.partitions[place]
        partition.leader_epoch += 1
        partition.cut(lost)
        partition.wake()

    def forget_before(self, place: TopicPartition, offset: int) -> None:
        """As retention does, and whoever deletes records. Raises `OffsetOutOfRangeError` behind the end."""
        partition = self.partitions[place]
        if offset > partition.end:
            raise OffsetOutOfRangeError({place: offset})
        partition.begin = max(partition.begin, offset)
        partition.wake()

    def repeat(self, place: TopicPartition, number: int) -> None:
        """So many of the first records once more, as a relay may do."""
        partition = self.partitions[place]
        for placed in [one for one in partition.placed if not one.is_hidden][:number]:
            partition.append([placed.record])

    def begin_transaction(
        self, place: TopicPartition, records: Sequence[Record], *, commits: bool
    ) -> Callable[[], None]:
        """Somebody else's, with what it writes. What is returned ends it; until then nobody reads on."""
        partition, transaction = self.partitions[place], object()
        if records:
            partition.open[transaction] = partition.end
            partition.append(records, is_hidden=not commits)

        def end() -> None:
            partition.open.pop(transaction, None)
            partition.append([_COMMITTED if commits else _ABORTED], is_hidden=True)

        return end


_ABORTED, _COMMITTED = Record(b"\0\0\0\0", b"", []), Record(b"\0\0\0\1", b"", [])
"""What Kafka writes for itself at the end of a transaction."""


class Group:
    """The processes of one service, among which the partitions that it reads are divided."""

    def __init__(self, places: Sequence[TopicPartition]) -> None:
        self.members: list[Any] = []
        self.assigned: dict[str, frozenset[TopicPartition]] = {}
        """By client id, as the coordinator has it."""
        self.committed: dict[TopicPartition, int] = {}
        """Offsets that members have told. Nobody's truth."""
        self.places = places

    def join(self, member: Member) -> None:
        self.members.append(member)
        self.divide()

    def leave(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)
            self.assigned.pop(member.client_id, None)
            self.divide()

    def commit(self, client_id: str | None, offsets: Mapping[TopicPartition, int]) -> None:
        """By a member, whichever partitions these are of; or by somebody else while there are no members.
        Raises `UnknownMemberIdError`.
        """
        if client_id not in (self.assigned or (None,)):
            raise UnknownMemberIdError(client_id)
        self.committed |= offsets

    def divide(self, turned: int = 0, without: Member | None = None) -> None:
        """Anew, among those that are alive. Who had a partition before goes on until he hears of it."""
        self.members = [member for member in self.members if member.is_alive]
        alive = [member for member in self.members if member is not without]
        self.assigned = {}
        for number, member in enumerate(alive):
            places = self.places[(number + turned) % len(alive) :: len(alive)]
            self.assigned[member.client_id] = frozenset(places)
            member.assign(places)
