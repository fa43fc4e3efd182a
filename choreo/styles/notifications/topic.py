"""A topic as one more who is told: of one key after the other, in order, and what is repeated is the same."""

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.kafka.topic_log import describe
from choreo.chassis.observe.health import NotReady
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.styles.http.callee import AWAY_SECONDS, CalleeAway

_PROBE_TIMEOUT_SECONDS = 1.5


class Topic:
    name = "kafka"

    def __init__(
        self, access: KafkaAccess, topic: str, partition_of: Callable[[str], int], partitions: int
    ) -> None:
        self.trouble: str | None = None
        self._access = access
        self._topic = topic
        self._partition_of = partition_of
        self._producers = [PartitionProducer(access, topic, one, partitions) for one in range(partitions)]
        self._turns = [asyncio.Lock() for _ in range(partitions)]
        self._away_until = 0.0

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self._away_until

    async def tell(
        self, key: str, facts: Sequence[OutboxRow], after: UUID | None = None
    ) -> Sequence[OutboxRow]:
        """Returns once Kafka has them; it answers nothing. Raises `CalleeAway`."""
        partition = self._partition_of(key)
        async with self._turns[partition]:
            while facts:
                if self.is_away:
                    raise CalleeAway(self.trouble)
                try:
                    facts = facts[await self._producers[partition].send(facts) :]
                except Exception as error:
                    self._away_until = time.monotonic() + AWAY_SECONDS
                    self.trouble = f"Kafka takes nothing for {self._topic}: {str(error) or repr(error)}"
                    raise CalleeAway(self.trouble) from error
                self.trouble = None
        return ()

    async def settle(self, ids: Sequence[UUID]) -> None:
        """Kafka forgets nothing."""

    async def probe(self) -> None:
        """For the health page: whether Kafka answers. Raises `NotReady`."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                await describe(self._access, [self._topic])
        except Exception as error:
            raise NotReady(
                f"Kafka at {self._access.bootstrap} does not answer; facts wait in the outbox"
            ) from error
