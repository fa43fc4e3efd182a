"""A topic as one more who is told: of one key after the other, in order, and what is repeated is the same."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.kafka.topic_log import describe
from choreo.chassis.observe.health import NotReady
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.styles.http.callee import Reached

_PROBE_TIMEOUT_SECONDS = 1.5


class Topic(Reached):
    name = "kafka"

    def __init__(
        self, access: KafkaAccess, topic: str, partition_of: Callable[[str], int], partitions: int
    ) -> None:
        super().__init__()
        self._access = access
        self._topic = topic
        self._partition_of = partition_of
        self._producers = [PartitionProducer(access, topic, one, partitions) for one in range(partitions)]
        self._turns = [asyncio.Lock() for _ in range(partitions)]

    async def tell(
        self, key: str, facts: Sequence[OutboxRow], after: UUID | None = None
    ) -> Sequence[OutboxRow]:
        """Returns once Kafka has them; it answers nothing. Raises `CalleeAway`."""
        partition = self._partition_of(key)
        async with self._turns[partition]:
            while facts:
                self._require()
                try:
                    facts = facts[await self._producers[partition].send(facts) :]
                except Exception as error:
                    reason = str(error) or repr(error)
                    raise self._away(f"Kafka takes nothing for {self._topic}: {reason}") from error
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
