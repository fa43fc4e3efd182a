"""What several partitions have for one leader at the same moment, sent as one request.

A request costs its sender and the broker about the same whatever is in it. Whoever sends in the same turn of
the loop shares one, after Facebook's DataLoader. A broker answers it once all of its batches are replicated,
and answers a connection's requests one after the other: whoever is in trouble has to send by itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from aiokafka.errors import KafkaConnectionError

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import Address, Cluster

REPLICATED_WITHIN_MS = 1000
"""So long one batch that its followers do not take holds up the others, until its sender is told."""

_Waiting = dict[int, tuple[bytes, "asyncio.Future[None]"]]
"""By partition what is to be sent, and who waits for it."""


class SharedProduce:
    """A connection to each leader of a topic, for all partitions that this process writes to."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self._topic = topic
        self._clusters: dict[Address, Cluster] = {}
        self._gathered: dict[Address, _Waiting] = defaultdict(dict)
        self._requests: set[asyncio.Task[None]] = set()

    async def produce(self, leader: Address, partition: int, batch: bytes) -> None:
        """Returns once as many replicas have it as must. Raises KafkaError.

        The same partition is not to be sent again before that.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._gathered[leader]:
            loop.call_soon(self._send, leader)
        self._gathered[leader][partition] = batch, done
        await done

    def close(self) -> None:
        """Ends the connections at once. Who still waits is told that they are closed."""
        for request in self._requests:
            request.cancel()
        for leader in list(self._clusters):
            self._clusters.pop(leader).close()

    def _send(self, leader: Address) -> None:
        waiting = {
            partition: (batch, done)
            for partition, (batch, done) in self._gathered.pop(leader).items()
            if not done.done()
        }
        if waiting:
            request = asyncio.ensure_future(self._request(leader, waiting))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, leader: Address, waiting: _Waiting) -> None:
        batches = {partition: batch for partition, (batch, _) in waiting.items()}
        if leader not in self._clusters:
            self._clusters[leader] = Cluster(self._access)
        cluster = self._clusters[leader]
        errors: Mapping[int, BaseException]
        try:
            errors = await cluster.produce(leader, self._topic, batches, REPLICATED_WITHIN_MS)
        except BaseException as error:
            if self._clusters.get(leader) is cluster:
                self._clusters.pop(leader).close()
            told = error if isinstance(error, Exception) else KafkaConnectionError("closed")
            errors = dict.fromkeys(batches, told)
        for partition, (_, done) in waiting.items():
            if done.done():
                continue
            if partition in errors:
                done.set_exception(errors[partition])
            else:
                done.set_result(None)
