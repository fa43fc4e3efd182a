"""Topics read in bulk, by offsets: no group is joined, nothing committed, nothing written."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import aiokafka
from aiokafka.errors import KafkaError, KafkaTimeoutError

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import Fetched as Chunk
from choreo.chassis.kafka.grants import AccessDenied, asking
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, describe
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import Record, TopicRecord

T = TypeVar("T")

LOG_UNREADABLE = (KafkaError, AccessDenied, LogMismatch)
"""What is raised where Kafka does not answer, lets this client not in, or lacks a topic."""

_APPENDED = 1
"""Of Kafka's types of timestamp that which the broker gives; the other is the writer's."""
_FETCH_WAIT_MS = 20
_POLL_MS = 200
_RETRY_TIMEOUT_SECONDS = 5.0
_ANSWER_TIMEOUT_SECONDS = 3.0
_RETRY_PAUSE_SECONDS = 0.1


class NothingCame(Exception):
    """Kafka gives no record where there must be one. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one partition."""

    place: TopicPartition
    records: list[TopicRecord]
    next_offset: int
    """Where its reading goes on."""


class LogReader:
    """Reads the partitions it is assigned, whatever lies in them. Use as a context.

    Raises what is in `LOG_UNREADABLE`.
    """

    def __init__(
        self, access: KafkaAccess, *, fetch_bytes: int = 1 << 20, silence_timeout_seconds: float = 10.0
    ) -> None:
        self._silence_timeout_seconds = silence_timeout_seconds
        self._access = access
        self._make_consumer: Callable[[], _Consumer] = partial(
            aiokafka.AIOKafkaConsumer,
            **access.aiokafka(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=fetch_bytes,
        )

    async def __aenter__(self) -> Self:
        await see_that_it_answers(self._access)
        self._consumer = self._make_consumer()
        try:
            async with answering(self._access):
                await self._consumer.start()
            # aiokafka's own task begins: one that had not would end as if we were cancelled.
            await asyncio.sleep(0)
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """From now on reads these partitions, each from its offset on, and no others."""
        self._consumer.assign([aiokafka.TopicPartition(*place) for place in offsets])
        for place, offset in offsets.items():
            self._consumer.seek(aiokafka.TopicPartition(*place), offset)

    def pause(self, place: TopicPartition) -> None:
        self._consumer.pause(aiokafka.TopicPartition(*place))

    def resume(self, place: TopicPartition) -> None:
        self._consumer.resume(aiokafka.TopicPartition(*place))

    async def poll(self) -> list[Fetched]:
        """Returns what there is; waits for at most 200 ms."""
        found = await self._consumer.getmany(timeout_ms=_POLL_MS)
        return [await self._fetched(partition, _told(chunk)) for partition, chunk in found.items()]

    async def read_on(self, place: TopicPartition) -> AsyncIterator[Fetched]:
        """Yields what comes, of all partitions, until this one's reading has got on. Raises `NothingCame`.

        A Kafka that does not even answer is not waited for as long as one that has nothing.
        """
        partition = aiokafka.TopicPartition(*place)
        loop, before = asyncio.get_running_loop(), await self._consumer.position(partition)
        deadline = loop.time() + self._silence_timeout_seconds
        look_at = loop.time() + _ANSWER_TIMEOUT_SECONDS / 2
        while await self._consumer.position(partition) == before:
            if loop.time() > deadline:
                raise NothingCame(f"{place[0]}[{place[1]}] gives nothing from offset {before} on.")
            if loop.time() > look_at:
                await self._see_that_it_answers(partition)
                look_at = loop.time() + _ANSWER_TIMEOUT_SECONDS / 2
            fetched = await self.poll()
            for one in fetched:
                yield one
            if all(one.place != place for one in fetched):  # offsets at which there is no record are got over
                yield await self._fetched(partition, [])

    async def _see_that_it_answers(self, partition: aiokafka.TopicPartition) -> None:
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS / 2):
                await self._consumer.end_offsets([partition])
        except TimeoutError:
            raise NothingCame(f"Kafka at {self._access.bootstrap} does not answer.") from None

    async def earliest(self, place: TopicPartition) -> int:
        partition = aiokafka.TopicPartition(*place)
        async with answering(self._access):
            return (await self._consumer.beginning_offsets([partition]))[partition]

    async def latest(self, place: TopicPartition) -> int:
        """Returns the offset that the next record will get."""
        partition = aiokafka.TopicPartition(*place)
        async with answering(self._access):
            return (await self._consumer.end_offsets([partition]))[partition]

    async def first_since(self, place: TopicPartition, time: datetime) -> int | None:
        """Returns the offset of the first record that is as young as this or younger, if there is one."""
        partition = aiokafka.TopicPartition(*place)
        async with answering(self._access):
            found = await self._consumer.offsets_for_times({partition: int(time.timestamp() * 1000)})
        return None if found[partition] is None else int(found[partition].offset)

    async def _fetched(self, partition: aiokafka.TopicPartition, records: list[TopicRecord]) -> Fetched:
        position = await self._consumer.position(partition)
        return Fetched((partition.topic, partition.partition), records, position)


def _told(chunk: Chunk) -> list[TopicRecord]:
    records, begin = [], chunk.begin
    for record in chunk:
        told = Record(record.key, record.value, list(record.headers))
        appended = record.timestamp_type == _APPENDED
        records.append(
            TopicRecord(
                record.topic, record.partition, record.offset, record.timestamp, appended, told, begin
            )
        )
        begin = record.offset + 1
    return records


@asynccontextmanager
async def answering(access: KafkaAccess) -> AsyncIterator[None]:
    """For what Kafka is asked in the block: where it is frozen that ends sooner than a request would.

    Raises KafkaTimeoutError.
    """
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise KafkaTimeoutError(f"Kafka at {access.bootstrap} does not answer") from None


async def see_that_it_answers(access: KafkaAccess) -> None:
    """Raises KafkaError."""
    async with answering(access), asking(access) as cluster:
        await cluster.metadata([])


async def describe_retrying(
    access: KafkaAccess, topics: Sequence[str]
) -> Mapping[TopicPartition, PartitionLog]:
    """Returns each partition of these topics as it is now. Raises what is in `LOG_UNREADABLE`."""
    await see_that_it_answers(access)
    return await retrying(partial(describe, access, topics))


async def retrying(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again, for five seconds, where the cluster refuses for a moment only.

    As it does while the leader of a partition is new. Raises what it said last; only where it said nothing
    in all that time, that it does not answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _RETRY_TIMEOUT_SECONDS
    said: Exception = KafkaTimeoutError("Kafka does not answer")
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await ask()
        except TimeoutError:
            raise said from None
        except (KafkaError, LogMismatch) as error:
            said = error
            if loop.time() + _RETRY_PAUSE_SECONDS > deadline:
                raise
            await asyncio.sleep(_RETRY_PAUSE_SECONDS)


class _Consumer(Protocol):
    """What is used of aiokafka's consumer."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, partitions: Collection[aiokafka.TopicPartition]) -> None: ...
    def seek(self, partition: aiokafka.TopicPartition, offset: int) -> None: ...
    def pause(self, *partitions: aiokafka.TopicPartition) -> None: ...
    def resume(self, *partitions: aiokafka.TopicPartition) -> None: ...
    async def position(self, partition: aiokafka.TopicPartition) -> int: ...
    async def getmany(self, *, timeout_ms: int) -> dict[aiokafka.TopicPartition, Chunk]: ...
    async def beginning_offsets(
        self, partitions: Collection[aiokafka.TopicPartition]
    ) -> dict[aiokafka.TopicPartition, int]: ...
    async def end_offsets(
        self, partitions: Collection[aiokafka.TopicPartition]
    ) -> dict[aiokafka.TopicPartition, int]: ...
    async def offsets_for_times(
        self, times: dict[aiokafka.TopicPartition, int]
    ) -> dict[aiokafka.TopicPartition, Any]: ...
