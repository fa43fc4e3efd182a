"""Whether this service has caught up with what another one published.

A clock alone cannot tell that an answer is missing. The service may have been stopped or lag behind, and an
answer that came in time lies in the topic unread. Whoever wants to decide that something did not happen asks
here first, once its time is up. With the broker away nobody can tell, and nothing has been caught up with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import raw_connection
from choreo.chassis.database.round_trip import RoundTrip
from choreo.chassis.kafka.topic_log import PartitionLog, compare
from choreo.chassis.transaction import parked, positions
from choreo.chassis.transaction.positions import TopicPartition

_LOOK_AGAIN = 0.1


class CatchUp:
    """Compares one topic, which `describe` looks at in Kafka, with the positions of this service."""

    def __init__(
        self,
        service: str,
        topic: str,
        engine: AsyncEngine,
        *,
        describe: Callable[[], Awaitable[Mapping[TopicPartition, PartitionLog]]],
        partition_of: Callable[[str], int],
    ) -> None:
        self._service = service
        self._topic = topic
        self._engine = engine
        self._describe = describe
        self._partition_of = partition_of

    async def read(self, seconds: float) -> frozenset[int]:
        """Returns the partitions that were read at least to where they end now.

        Waits until that is all of them, at the latest for so many seconds. Raises `LogMismatch` where
        the topic is not the one that was read, and what Kafka's client raises where the broker is away.
        """
        ends = await self._ends()
        next_offsets = await self._next_offsets()
        try:
            async with asyncio.timeout(seconds):
                while any(next_offsets[partition] < end for partition, end in ends.items()):
                    await asyncio.sleep(_LOOK_AGAIN)
                    next_offsets = await self._next_offsets()
        except TimeoutError:
            pass
        return frozenset(partition for partition, end in ends.items() if next_offsets[partition] >= end)

    async def known(self, keys: Collection[str], read: frozenset[int]) -> set[str]:
        """Returns those of the keys whose partitions were read, without those that have parked events.

        Records of a parked key count as read and are not applied yet.
        """
        candidates = {key for key in keys if self._partition_of(key) in read}
        async with raw_connection(self._engine) as conn, RoundTrip(conn) as trip:
            blocked = parked.blocked(trip, candidates)
        return candidates - blocked()

    async def _ends(self) -> dict[int, int]:
        async with raw_connection(self._engine) as conn:
            before = {row.place: row for row in await positions.read(conn, [self._topic])}
        log = await self._describe()
        for place, there in log.items():
            compare(self._service, there, before.get(place))
        return {partition: there.latest for (_, partition), there in log.items()}

    async def _next_offsets(self) -> Mapping[int, int]:
        async with raw_connection(self._engine) as conn:
            found = await positions.read(conn, [self._topic])
        return _FromStart({row.partition: row.next_offset for row in found})


class _FromStart(dict[int, int]):
    """A partition without a position was not begun."""

    def __missing__(self, partition: int) -> int:
        return 0
