"""From the outbox to Kafka, in order, at least once.

A shard is a partition of the service's topic, with one owner by advisory lock. The owner has one batch per
partition on its way, always the oldest facts there are, and takes the next when it is acknowledged; after an
error the same ones come first again. The lock is no fence, so a record may repeat, byte for byte; first
occurrences are in order. Woken by the commit that decided something, in this process or in another, whose
relay passes it on if it does not own every shard; a slow poll is the net underneath.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import murmur2
from psycopg import Notify
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, own_connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.grants import AccessDenied, asking, require, writing
from choreo.chassis.observe.health import NotReady
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.outbox import OutboxRow

_ROUND = 1000
"""At most so many facts are on their way at once."""
_BATCH_BYTES = 512 * 1024
_POLL = 1.0
_SEND_TIMEOUT_SECONDS = 10.0
"""Seconds until an unacknowledged batch is tried again with a new producer."""
_PAUSE = 0.5
_LOCK_CLASS = 0x0B0C

_OWN = """/* relay.own: the shards nobody else relays */
SELECT partition FROM unnest(%b::int[]) AS partition WHERE pg_try_advisory_lock(%s, partition)"""

_LISTEN = """/* relay.listen: to the other processes of this service */
LISTEN relay"""

_TELL = """/* relay.tell: to whoever owns the shard, something was decided here */
NOTIFY relay"""

log = structlog.get_logger()


def partition_of(key: str, partitions: int) -> int:
    """Where Kafka's own default partitioner puts this key."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


class Relay:
    def __init__(
        self, topic: str, partitions: int, engine: AsyncEngine, access: KafkaAccess, meter: Meter
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._engine = engine
        self._access = access
        self._meter = meter
        self._news = asyncio.Event()
        self._decided = False
        self._producer: AIOKafkaProducer | None = None
        self._denied: AccessDenied | None = None

    def wake(self) -> None:
        """Something was decided in this process."""
        self._decided = True
        self._news.set()

    async def probe(self) -> None:
        """For the health page: whether Kafka answers this producer."""
        if self._denied:
            raise NotReady(f"{self._denied}; facts wait in the outbox")
        if self._producer is None or not await self._producer.client.force_metadata_update():
            raise NotReady(f"Kafka at {self._access.bootstrap} does not answer; facts wait in the outbox")

    async def run(self) -> None:
        """Runs until cancelled. Trouble with Kafka or the database is waited out, never fatal."""
        while True:
            try:
                async with own_connection(self._engine) as conn:
                    # A removal that is lost with the power means one more repeat.
                    await conn.execute("SET synchronous_commit = off")
                    await self._relay(conn)
            except Exception as error:
                self._denied = error if isinstance(error, AccessDenied) else None
                log.warning("relay trouble, trying again", error=str(error) or repr(error))
            await asyncio.sleep(_PAUSE)

    async def _relay(self, conn: Connection) -> None:
        self._producer = AIOKafkaProducer(
            **self._access.aiokafka(),
            enable_idempotence=True,
            acks="all",
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=5000,
        )
        try:
            await self._begin(self._producer)
            await self._check_partitions(self._producer)
            conn.add_notify_handler(lambda notify: self._heard(conn, notify))
            await conn.execute(_LISTEN)
            owned: list[int] = []
            while True:
                if len(owned) < self._partitions:
                    owned += await self._own(conn, owned)
                decided, self._decided = self._decided, False
                self._news.clear()
                if decided and len(owned) < self._partitions:
                    await conn.execute(_TELL)
                rows = await outbox.lowest(conn, owned, _ROUND) if owned else []
                if rows:
                    await self._publish(conn, self._producer, rows)
                else:
                    await self._wait(conn)
        finally:
            producer, self._producer = self._producer, None
            with suppress(Exception):
                async with asyncio.timeout(_PAUSE):
                    await producer.stop()

    def _heard(self, conn: Connection, notify: Notify) -> None:
        if notify.pid != conn.info.backend_pid:
            self._news.set()

    async def _wait(self, conn: Connection) -> None:
        """For news, or until it is time to look all the same. What it was the next statement reads."""
        loop = asyncio.get_running_loop()
        loop.add_reader(conn.fileno(), self._news.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._news.wait()
        finally:
            loop.remove_reader(conn.fileno())

    async def _begin(self, producer: AIOKafkaProducer) -> None:
        """Raises `AccessDenied` where Kafka does not take our name, or does not let us write."""
        try:
            await producer.start()
        except KafkaConnectionError:
            if self._access.username:  # its text does not tell a wrong password from a Kafka that is away
                await self._check_grants()
            raise
        await self._check_grants()
        self._denied = None

    async def _check_grants(self) -> None:
        async with asking(self._access) as cluster:
            await require(cluster, self._access, writing(self._topic))

    async def _check_partitions(self, producer: AIOKafkaProducer) -> None:
        there = await producer.partitions_for(self._topic)
        if len(there) != self._partitions:
            raise KafkaError(
                f"{self._topic} has {len(there)} partitions and CHOREO_PARTITIONS says {self._partitions}: "
                "set it to what the topic has, since a key must not move"
            )

    async def _own(self, conn: Connection, owned: Sequence[int]) -> list[int]:
        missing = sorted(set(range(self._partitions)) - set(owned))
        rows = await (await conn.execute(_OWN, [missing, _LOCK_CLASS])).fetchall()
        return [partition for (partition,) in rows]

    async def _publish(self, conn: Connection, producer: AIOKafkaProducer, rows: Sequence[OutboxRow]) -> None:
        """Raises if any partition failed; what the others acknowledged is removed all the same."""
        by_partition = groupby(sorted(rows, key=attrgetter("partition")), key=attrgetter("partition"))
        shards = [(partition, list(group)) for partition, group in by_partition]
        results = await asyncio.gather(
            *(self._send(producer, partition, group) for partition, group in shards), return_exceptions=True
        )
        acknowledged = [
            row.position for sent in results if not isinstance(sent, BaseException) for row in sent
        ]
        if acknowledged:
            await outbox.remove(conn, acknowledged)
            self._meter.published.inc(len(acknowledged))
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _send(
        self, producer: AIOKafkaProducer, partition: int, rows: Sequence[OutboxRow]
    ) -> Sequence[OutboxRow]:
        """One batch of the oldest; returns those it held, once Kafka has them."""
        batch = producer.create_batch()
        sent = []
        for row in rows:
            record = row.record
            if not batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers):
                break
            sent.append(row)
        batch.close()
        async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
            await (await producer.send_batch(batch, self._topic, partition=partition))
        return sent
