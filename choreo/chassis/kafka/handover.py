"""From one session of the consumer to the kernel: the records it fetched, and back that they are finished.

A chunk is what a fetch brought of one partition. It may span several transactions, and is acknowledged once
its last record is committed. Records of one
partition wait behind each other, and those of others do not wait for them: a partition that does not get on
is fetched no further for now.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from choreo.chassis import clock
from choreo.chassis.kafka.aiokafka_internals import Fetched
from choreo.chassis.kafka.cluster import Group
from choreo.chassis.kafka.faust_internals import FETCHED_RECORDS, ChunkedApp, Stream
from choreo.chassis.kafka.topic_log import PartitionLog
from choreo.chassis.transaction.inputs import Heard, read
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Expected, Position, TopicPartition
from choreo.message.codec import Record, UnknownType
from choreo.message.fact import Fact

FactsByTopic = Mapping[str, frozenset[type[Fact]]]
"""Which facts a service consumed, by topic."""

Positions = Mapping[TopicPartition, Position]
Log = Mapping[TopicPartition, PartitionLog]

PARTITION_RECORDS = FETCHED_RECORDS
"""With so many of its records in the kernel a partition's next chunk waits."""
PARTITION_WAIT_SECONDS = 1.0
"""And after so long nobody else waits for that any more: the partition is paused until it gets on."""

STALLED_SECONDS = 10.0
"""What could be read and was not for so long is read by a new session."""
_SETTLED = ("Stable", "Empty", "Dead")
"""States of a group in which Kafka says who reads what, and nothing is about to change."""

_UNKNOWN = Expected(0, -1)

log = structlog.get_logger()


@dataclass
class _Partition:
    given: set[Heard] = field(default_factory=set)
    """What the kernel has of it and has not finished."""
    has_room: asyncio.Event = field(default_factory=asyncio.Event)
    is_paused: bool = False
    end: Expected = _UNKNOWN
    """Of what was read of it."""

    def __post_init__(self) -> None:
        self.has_room.set()

    def epoch_before(self, chunk: Fetched) -> int:
        """Of the leader that appended what lies before it; -1 where it is not known."""
        return self.end.leader_epoch if self.end.next_offset == chunk.begin else -1


class Handover:
    """`ended` gets the first error: the session is over. `on_progress` is called after every commit."""

    def __init__(
        self, kernel: Kernel[Any], consumed: FactsByTopic, app: ChunkedApp, on_progress: Callable[[], None]
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kernel = kernel
        self._consumed = consumed
        self._app = app
        self._on_progress = on_progress
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._waits_for_kernel = False
        self._in_hand: set[TopicPartition] = set()
        """Whose chunks wait to be given to the kernel."""

    @property
    def unfinished(self) -> int:
        """Records the kernel has and has not finished."""
        return sum(len(partition.given) for partition in self._partitions.values())

    def is_busy_with(self, place: TopicPartition) -> bool:
        """The kernel has something of it, or is too full to be given it."""
        return self._waits_for_kernel or self.has(place)

    def read_up_to(self, place: TopicPartition) -> Expected | None:
        """None while something of it is on its way to the kernel, or there."""
        return None if self.has(place) else self._partitions.get(place, _Partition()).end

    def has(self, place: TopicPartition) -> bool:
        """Whether something of it is on its way to the kernel, or there."""
        return place in self._in_hand or (place in self._partitions and bool(self._partitions[place].given))

    async def listen(
        self, stream: Stream, *, check: Callable[[TopicPartition, Expected, int], Awaitable[None]]
    ) -> None:
        """Hands over chunk after chunk. Where another leader has appended one than what was read before it,
        `check` is awaited first: with the place, the end of what was read of it, and that leader's epoch.
        """
        async for event in stream.noack().events():
            self._in_hand = set(event.message.value)
            for place, chunk in event.message.value.items():
                partition = self._partitions.setdefault(place, _Partition())
                await self._wait_for_room(place, partition)
                epoch = chunk.leader_epoch(chunk.begin)
                if partition.epoch_before(chunk) not in (-1, epoch):
                    await check(place, partition.end, epoch)
                if self.ended.done():
                    return
                self.take(place, chunk, partition)
                self._in_hand.discard(place)

    def begin(self, places: Mapping[TopicPartition, Expected]) -> None:
        """What comes next of these is read from there on."""
        for place, end in places.items():
            self._partitions.setdefault(place, _Partition()).end = end

    def take(self, place: TopicPartition, chunk: Fetched, partition: _Partition) -> None:
        inputs = list(self._inputs(place, chunk, partition.epoch_before(chunk)))
        partition.end = Expected(chunk.end, chunk.leader_epoch(chunk.end - 1))
        partition.given.update(inputs)
        if len(partition.given) >= PARTITION_RECORDS:
            partition.has_room.clear()
        for heard in inputs:
            ends = chunk.end if heard is inputs[-1] else None
            heard.done.add_done_callback(partial(self._finished, heard=heard, chunk_end=ends))
            self._kernel.hear(heard)

    def close(self) -> None:
        """Nothing that was handed over is finished for this session any more: the next one reads it again."""
        self.ended.cancel()
        self._give_back()

    def _give_back(self) -> None:
        for partition in self._partitions.values():
            for heard in partition.given:
                heard.done.cancel()

    async def _wait_for_room(self, place: TopicPartition, partition: _Partition) -> None:
        self._waits_for_kernel = True
        await self._kernel.room()
        self._waits_for_kernel = False
        if partition.is_paused:
            return
        try:
            async with asyncio.timeout(PARTITION_WAIT_SECONDS):
                await partition.has_room.wait()
        except TimeoutError:
            log.warning("a partition does not get on, the others go on", topic=place[0], partition=place[1])
            partition.is_paused = True
            self._app.pause(place)

    def _finished(self, done: "asyncio.Future[None]", *, heard: Heard, chunk_end: int | None) -> None:
        """The transaction is over: tell Faust, or end the session."""
        if done.cancelled() or self.ended.done():
            return
        if error := done.exception():
            self.ended.set_exception(error)
            self._give_back()
            return
        place = heard.place
        if chunk_end is not None:
            self._app.acknowledge(place, chunk_end)
        partition = self._partitions[place]
        partition.given.discard(heard)
        if len(partition.given) < PARTITION_RECORDS:
            partition.has_room.set()
            if partition.is_paused:
                partition.is_paused = False
                self._app.resume(place)
        self._on_progress()

    def _inputs(self, place: TopicPartition, chunk: Fetched, epoch_before: int) -> Iterator[Heard]:
        """Each record with where the reading went on that found it; at last what lies behind them all."""
        begin = Expected(chunk.begin, epoch_before)
        for record in chunk:
            epoch = chunk.leader_epoch(record.offset)
            yield self._heard(place, record, begin, epoch)
            begin = Expected(record.offset + 1, epoch)
        if begin.next_offset < chunk.end:
            nothing, last = Record(None, None, []), chunk.end - 1
            epoch = chunk.leader_epoch(last)
            yield self._input(place, last, nothing, None, None, begin, epoch, is_marker=True)

    def _heard(self, place: TopicPartition, fetched: Any, begin: Expected, epoch: int) -> Heard:
        record = Record(fetched.key, fetched.value, list(fetched.headers))
        try:
            event, error = read(record, self._consumed[place[0]])
        except UnknownType as unknown:
            event, error = None, None
            log.info("skipped", detail=str(unknown), topic=place[0], offset=fetched.offset)
        return self._input(place, fetched.offset, record, event, error, begin, epoch)

    def _input(
        self,
        place: TopicPartition,
        offset: int,
        record: Record,
        event: Any,
        error: str | None,
        begin: Expected,
        epoch: int,
        *,
        is_marker: bool = False,
    ) -> Heard:
        done = asyncio.get_running_loop().create_future()
        return Heard(
            *place,
            offset,
            record,
            event,
            error,
            clock.now(),
            done,
            fetched_from=begin.next_offset,
            epoch_before=begin.leader_epoch,
            leader_epoch=epoch,
            is_marker=is_marker,
        )


class Stalled(Exception):
    """There is something to read and nothing is read. The message says where."""


class Unread:
    """What a session has not read and nobody else will: of partitions it has, and of those nobody has.

    Faust asks aiokafka for records only while it believes it has partitions, and aiokafka gives up in ways
    Faust does not hear of. So whether a session reads is seen from outside, by what comes of it.
    """

    def __init__(self, client_id: str, handover: Handover) -> None:
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
