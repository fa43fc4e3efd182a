"""One partition of a topic, and the only one who writes there: idempotent, in order, one batch at a time.

Each partition has a producer id of its own: where one serves several, its renewal, which a partition needs
whose sequence is broken, leaves the others' batches in doubt. Requests may be shared with its neighbours. But
one that waits for its followers holds up all that comes over the same connection, so after any trouble a
partition has connections of its own for a while.
"""

import asyncio
from collections.abc import Sequence

from aiokafka.errors import (
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    UnknownProducerId,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import Address, Cluster
from choreo.chassis.kafka.grants import refused, require, writing
from choreo.chassis.kafka.shared_produce import SharedProduce
from choreo.chassis.transaction.outbox import OutboxRow

SEND_TIMEOUT_SECONDS = 10.0
"""For one batch, with whatever connections have to be made for it."""
BATCH_BYTES = 512 * 1024
APART_SECONDS = 60.0
"""So long it sends by itself after it could not send."""

_TOO_LARGE = MessageSizeTooLargeError, RecordListTooLargeError
_FORGOTTEN = OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, InvalidProducerIdMapping
_SEQUENCE_NUMBERS = 2**31


class PartitionProducer:
    def __init__(
        self,
        access: KafkaAccess,
        topic: str,
        partition: int,
        partitions: int,
        shared: SharedProduce | None = None,
    ) -> None:
        """`partitions` are those that keys are spread over. A topic with fewer gets nothing."""
        self._access = access
        self._topic = topic
        self._partition = partition
        self._partitions = partitions
        self._shared = shared
        self._apart_until = 0.0
        """By the loop's clock."""
        self._cluster = Cluster(access)
        self._leader: Address | None = None
        self._id: tuple[int, int] | None = None
        self._sequence = 0
        self._batch_bytes = BATCH_BYTES
        """Halved where Kafka takes less."""

    async def send(self, rows: Sequence[OutboxRow]) -> int:
        """How many of them, counted from the first, are acknowledged.

        Raises `AccessDenied` or KafkaError, and nothing is left of the attempt but what may have reached
        Kafka. Next the same rows have to be sent again: what Kafka has of them it then recognises.
        """
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                return await self._send(rows)
        except BaseException as error:
            self.close()
            self._apart_until = asyncio.get_running_loop().time() + APART_SECONDS
            if isinstance(error, SaslAuthenticationFailed):
                raise refused(self._access) from None
            if isinstance(error, TimeoutError):
                raise KafkaError(f"no acknowledgement within {SEND_TIMEOUT_SECONDS:g} s") from None
            raise

    def close(self) -> None:
        """Ends the connections at once. The next batch makes new ones."""
        self._cluster.close()
        self._leader = None

    async def _send(self, rows: Sequence[OutboxRow]) -> int:
        leader = self._leader = self._leader or await self._find_leader()
        if self._id is None:
            self._id, self._sequence = await self._cluster.new_producer_id(), 0
        while True:
            batch, count = self._batch(self._id, rows)
            try:
                await self._produce(leader, batch)
            except _TOO_LARGE:
                if count == 1:
                    raise
                self._batch_bytes = len(batch) // 2
                continue
            except DuplicateSequenceNumber:
                pass  # it is there, and has been for long
            except _FORGOTTEN:
                self._id = None
                raise
            self._sequence = (self._sequence + count) % _SEQUENCE_NUMBERS
            return count

    async def _produce(self, leader: Address, batch: bytes) -> None:
        if self._shared and asyncio.get_running_loop().time() >= self._apart_until:
            self._cluster.close()
            await self._shared.produce(leader, self._partition, batch)
            return
        for error in (await self._cluster.produce(leader, self._topic, {self._partition: batch})).values():
            raise error

    async def _find_leader(self) -> Address:
        await require(self._cluster, self._access, writing(self._topic))
        metadata = await self._cluster.metadata([self._topic])
        there = len(metadata.topic(self._topic).leaders)
        if there < self._partitions:
            raise KafkaError(
                f"{self._topic} has {there} partitions and CHOREO_PARTITIONS says {self._partitions}: "
                "set it to what the topic has, since a key must not move"
            )
        return metadata.leader(self._topic, self._partition)

    def _batch(self, id: tuple[int, int], rows: Sequence[OutboxRow]) -> tuple[bytes, int]:
        """As many of the first rows as it holds, and how many these are: one at least."""
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=False,
            producer_id=id[0],
            producer_epoch=id[1],
            base_sequence=self._sequence,
            batch_size=self._batch_bytes,
        )
        count = 0
        for row in rows:
            record = row.record
            if builder.append(count, None, record.key, record.value, record.headers) is None:
                break
            count += 1
        return bytes(builder.build()), count
