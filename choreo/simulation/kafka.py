"""The clients of the log in memory: what stands here for `Cluster` and for Faust.

Relay, producer and consumer are the real ones; they are given these two for the real ones.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, UnknownMemberIdError

from choreo.chassis.kafka import cluster
from choreo.chassis.kafka.aiokafka_internals import Fetched, FetchedRecord
from choreo.chassis.kafka.cluster import EARLIEST, Metadata, Topic
from choreo.chassis.kafka.faust_internals import FetchedChunks, NextOffsets
from choreo.chassis.transaction.positions import TopicPartition
from choreo.simulation.log import Group, Log
from choreo.simulation.loop import Process

_BUFFERED_CHUNKS = 4
_AGAIN_SECONDS = 0.5
_MOST_RECORDS = 4
"""A chunk is small, so that there are many borders between them."""
_BROKER = "broker", 9092


@dataclass(frozen=True)
class Access:
    """One process's way in, as far as `KafkaAccess` is asked for it."""

    log: Log
    groups: Mapping[str, Group]
    process: Process
    chance: Random
    acknowledged: Callable[[str, TopicPartition, int], None]
    """Told a group's offset when it is acknowledged."""
    is_late: Callable[[TopicPartition, bytes], bool]
    """Asked of a batch; then its leader appends it later, and its sender hears nothing."""
    bootstrap: str = "memory"
    principal: str = "User:simulated"


class MemoryCluster:
    """As `Cluster`, with one broker, that leads everything."""

    def __init__(self, access: Any) -> None:
        self._access: Access = access
        self._log = self._access.log

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    async def metadata(self, topics: Iterable[str]) -> Metadata:
        await self._log.turn("metadata")
        return Metadata("simulated", {1: _BROKER}, {name: self._topic(name) for name in topics})

    def _topic(self, name: str) -> Topic:
        epochs = {
            number: partition.leader_epoch
            for (topic, number), partition in self._log.partitions.items()
            if topic == name
        }
        return Topic(name, dict.fromkeys(epochs, 1), epochs, None)

    async def group(self, name: str) -> cluster.Group:
        await self._log.turn("group")
        assigned = self._access.groups[name].assigned
        members = [cluster.Member(client, client, "/memory", places) for client, places in assigned.items()]
        return cluster.Group("Stable" if members else "Empty", members, None)

    async def offsets(
        self, places: Iterable[TopicPartition], time: int, *, committed: bool = False
    ) -> dict[TopicPartition, tuple[int, int]]:
        await self._log.turn("offsets")
        partitions = {place: self._log.partitions[place] for place in places}
        if time == EARLIEST:
            return {place: (partition.begin, -1) for place, partition in partitions.items()}
        return {
            place: (partition.stable if committed else partition.end, -1)
            for place, partition in partitions.items()
        }

    async def cleanup_policies(self, topics: Collection[str]) -> dict[str, str]:
        await self._log.turn("configs")
        return dict.fromkeys(topics, "delete")

    async def records(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, FetchedRecord]:
        await self._log.turn("records")
        found = {}
        for place, offset in wanted.items():
            partition = self._log.partitions[place]
            if offset == partition.end:
                raise KafkaTimeoutError(f"nothing at {offset} is given")
            if partition.begin <= offset < partition.end:
                placed = partition.placed[offset]
                found[place] = FetchedRecord(placed.record, placed.leader_epoch)
        return found

    async def new_producer_id(self) -> tuple[int, int]:
        await self._log.turn("producer")
        return self._log.new_producer_id(), 0

    async def produce(
        self, leader: object, topic: str, batches: Mapping[int, bytes], within_ms: int = 0
    ) -> dict[int, KafkaError]:
        await self._log.turn("produce")
        late = [place for place, batch in batches.items() if self._access.is_late((topic, place), batch)]
        errors = {}
        for partition, batch in batches.items():
            if partition not in late:
                try:
                    self._log.append((topic, partition), batch)
                except KafkaError as error:
                    errors[partition] = error
        if late:
            raise KafkaConnectionError("the connection is lost")
        await self._log.turn("acknowledge")
        return errors


class MemoryApp:
    """As `ChunkedApp`: a session of a group's member, with chunks that are fetched ahead."""

    def __init__(self, group: str, client_id: str, access: Any) -> None:
        self.client_id = client_id
        self.crash_reason: BaseException | None = None
        self._access: Access = access
        self._log = self._access.log
        self._name = group
        self._group = self._access.groups[group]
        self._assigned: Sequence[TopicPartition] = ()
        self._divided = asyncio.Event()
        self._joined = asyncio.Event()
        self._stopped = asyncio.Event()
        self._chunks: asyncio.Queue[tuple[TopicPartition, Fetched]] = asyncio.Queue(_BUFFERED_CHUNKS)
        self._paused: dict[TopicPartition, asyncio.Event] = {}
        self._tasks: list[asyncio.Future[Any]] = []
        self._fetching: dict[TopicPartition, asyncio.Future[Any]] = {}
        self._loses_a_chunk = False
        self._is_there = True

    def consume(
        self,
        topics: Collection[str],
        listen: Callable[[Any], Awaitable[None]],
        next_offsets: NextOffsets,
    ) -> None:
        self._listen, self.next_offsets = listen, next_offsets

    async def start(self) -> None:
        """Returns with the first assignment."""
        self._tasks = [asyncio.ensure_future(self._listen(self)), asyncio.ensure_future(self._read())]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._group.join(self)
        await self._joined.wait()

    async def stop(self) -> None:
        self._is_there = False
        self._group.leave(self)
        for task in (*self._tasks, *self._fetching.values()):
            task.cancel()

    async def wait_until_stopped(self) -> None:
        await self._stopped.wait()

    def _ended(self, task: "asyncio.Future[Any]") -> None:
        if not task.cancelled() and not self._stopped.is_set():
            self.crash_reason = task.exception()
            self._stopped.set()
            self._joined.set()  # who waits for that is told, too

    # -- as a member of its group ----------------------------------------------------------------

    @property
    def process(self) -> Process:
        return self._access.process

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive and self._is_there

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """It hears of it when it is its turn."""
        self._assigned = places
        asyncio.get_running_loop().call_soon(self._divided.set, context=self._access.process.context)

    def go_deaf(self) -> None:
        """It leaves the group, fetches no more, and tells nobody."""
        self._group.leave(self)
        for task in self._fetching.values():
            task.cancel()
        self._tasks[1].cancel()

    def lose_a_chunk(self) -> None:
        """The next that is fetched. What comes after it is given all the same."""
        self._loses_a_chunk = True

    async def _read(self) -> None:
        while True:
            await self._divided.wait()
            self._divided.clear()
            for task in self._fetching.values():
                task.cancel()
            places = set(self._assigned)
            offsets = await self.begin_at(places)
            if self._divided.is_set():
                continue
            while not self._chunks.empty():  # what somebody has in hand is given all the same
                self._chunks.get_nowait()
            self._paused.clear()
            self._fetching = {
                place: asyncio.ensure_future(self._fetch(place, offsets[place])) for place in sorted(places)
            }
            for task in self._fetching.values():
                task.add_done_callback(self._ended)
            self._joined.set()

    async def begin_at(self, places: set[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where Faust seeks to. Not the group's word but that of Postgres."""
        return await self.next_offsets(places)

    def begin_at_committed(self) -> dict[TopicPartition, int]:
        return {place: self._group.committed.get(place, 0) for place in self._assigned}

    async def _fetch(self, place: TopicPartition, offset: int) -> None:
        while True:
            if place in self._paused:
                await self._paused[place].wait()
            try:
                limit = self._access.chance.randint(1, _MOST_RECORDS)
                chunk = await self._log.fetch(place, offset, limit)
            except KafkaConnectionError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            offset = chunk.end
            if self._loses_a_chunk:
                self._loses_a_chunk = False
                continue
            await self._chunks.put((place, chunk))

    def acknowledge(self, place: TopicPartition, next_offset: int) -> None:
        with suppress(UnknownMemberIdError):
            self._group.commit(self.client_id, {place: next_offset})
        self._access.acknowledged(self._name, place, next_offset)

    # -- what the hand-over asks of Faust --------------------------------------------------------

    def noack(self) -> "MemoryApp":
        return self

    async def events(self) -> AsyncIterator["_Delivered"]:
        """Each with what is there, of each partition one chunk."""
        while True:
            place, chunk = await self._chunks.get()
            fetched = {place: chunk}
            while self._chunks.qsize() and self._next_place() not in fetched:
                place, chunk = self._chunks.get_nowait()
                fetched[place] = chunk
            yield _Delivered(fetched)

    def _next_place(self) -> TopicPartition:
        waiting: deque[tuple[TopicPartition, Fetched]] = vars(self._chunks)["_queue"]
        return waiting[0][0]

    def pause(self, place: TopicPartition) -> None:
        self._paused[place] = asyncio.Event()

    def resume(self, place: TopicPartition) -> None:
        if paused := self._paused.pop(place, None):
            paused.set()


class _Delivered:
    """What a fetch brought, as Faust gives it: an event, and its message."""

    def __init__(self, fetched: FetchedChunks) -> None:
        self.value = fetched
        self.message = self
