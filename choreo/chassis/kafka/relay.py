"""From the outbox to Kafka, in order, at least once.

A shard is a partition of the service's topic. It is relayed by the process that holds its lease, a row that
is renewed by the database's clock. One look into the outbox and one removal serve all shards of a process,
and one request all that go to the same leader; limits and retries are each shard's own, so that a partition
whose leader does not answer delays nobody else. One batch of a shard is on its way, always the oldest facts
there are, and the same ones until they are acknowledged. The lease is no fence, so a record may repeat, byte
for byte; first occurrences are in order. Woken by the commit that decided something, in this process or in
another, whose relay passes it on if it does not own every shard; a slow poll is the net underneath.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from uuid import UUID

import structlog
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from psycopg import Notify
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, own_connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import Metadata
from choreo.chassis.kafka.grants import AccessDenied, asking, require, writing
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.kafka.shared_produce import SharedProduce
from choreo.chassis.observe.health import Job, NotReady
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.outbox import OutboxRow

LEASE = timedelta(seconds=6)
"""So long a shard waits for somebody else when its owner died."""
DATABASE_TIMEOUT_SECONDS = 5.0
"""For all that a round asks of the database."""
PROBE_TIMEOUT_SECONDS = 1.5
_ROUND = 1000
"""At most so many facts are read at once."""
_POLL_SECONDS = 1.0
"""So often leases are renewed, and the outbox is looked into without being told."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.0

_LISTEN = """/* relay.listen: to the other processes of this service */
LISTEN relay"""

_TELL = """/* relay.tell: to whoever owns the shard, something was decided here */
NOTIFY relay"""

log = structlog.get_logger()


@lru_cache(maxsize=1 << 14)
def partition_of(key: str, partitions: int) -> int:
    """Where Kafka's own default partitioner puts this key."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


class Relay:
    def __init__(
        self,
        topic: str,
        partitions: int,
        engine: AsyncEngine,
        access: KafkaAccess,
        *,
        owner: UUID,
        job: Job,
        meter: Meter,
    ) -> None:
        """Whoever was this owner before has ended."""
        self._topic = topic
        self._partitions = range(partitions)
        self._engine = engine
        self._access = access
        self._job = job
        self._meter = meter
        self._owner = owner
        self._shards: dict[int, _Shard] = {}
        self._shared = SharedProduce(access, topic)
        self._unowned: list[int] = []
        self._strays: list[int] = []
        self._woken = asyncio.Event()
        self._decided = False
        self._told = False
        """There is something to read from the database."""
        self._looked_at = 0.0
        self._grown = False

    def wake(self) -> None:
        """Something was decided in this process."""
        self._decided = True
        self._woken.set()

    async def probe(self) -> None:
        """For the health page: whether Kafka answers, and lets us write."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), asking(self._access) as cluster:
                await require(cluster, self._access, writing(self._topic))
                self._warn_if_grown(await cluster.metadata([self._topic]))
        except AccessDenied as denied:
            raise NotReady(f"{denied}; facts wait in the outbox") from denied
        except (KafkaError, TimeoutError) as error:
            raise NotReady(
                f"Kafka at {self._access.bootstrap} does not answer; facts wait in the outbox"
            ) from error

    def _warn_if_grown(self, metadata: Metadata) -> None:
        there = len(metadata.topic(self._topic).leaders)
        if there > len(self._partitions) and not self._grown:
            log.warning(
                "the topic grew; keys stay where they are",
                topic=self._topic,
                partitions=there,
                used=len(self._partitions),
            )
        self._grown = there > len(self._partitions)

    async def run(self) -> None:
        """Runs until cancelled. Trouble with Kafka or the database is waited out, never fatal."""
        while True:
            try:
                async with own_connection(self._engine) as conn:
                    # A removal that is lost with the power means one more repeat.
                    await conn.execute("SET synchronous_commit = off")
                    await self._relay(conn)
            except Exception as error:
                log.warning("the outbox cannot be read, trying again", error=str(error) or repr(error))
                self._job.held_up(f"the outbox cannot be read: {type(error).__name__}")
            await asyncio.sleep(_FIRST_PAUSE_SECONDS)

    async def _relay(self, conn: Connection) -> None:
        async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS):
            conn.add_notify_handler(lambda notify: self._heard(conn, notify))
            await conn.execute(_LISTEN)
            await outbox.declare_leases(conn, self._partitions)
        self._looked_at = 0.0
        try:
            while True:
                self._woken.clear()
                async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS):
                    more = await self._round(conn)
                if not more:
                    await self._wait(conn)
        finally:
            self._leave(self._shards)
            self._shared.close()
            with suppress(Exception):
                async with asyncio.timeout(_POLL_SECONDS):
                    await outbox.release(conn, self._owner)

    async def _round(self, conn: Connection) -> bool:
        """Removes what is acknowledged and sends what is next. Whether there is more than it read.

        Where only an acknowledgement woke us, and nothing was decided for those partitions meanwhile, there
        is nothing to look for.
        """
        decided, self._decided = self._decided, False
        told, self._told = self._told, False
        behind = await self._remove_acknowledged(conn)
        if asyncio.get_running_loop().time() >= self._looked_at + _POLL_SECONDS:
            await self._look(conn)
            told = True
        if not (decided or told or behind):
            return False
        if decided and len(self._shards) < len(self._partitions):
            await conn.execute(_TELL)
        for shard in self._shards.values():
            shard.behind = bool(shard.sending)
        idle = [partition for partition, shard in self._shards.items() if not shard.sending]
        # Asked also where all are busy: a notification that no statement reads would wake us again at once.
        rows = await outbox.lowest(conn, idle, _ROUND)
        by_partition = attrgetter("partition")
        for partition, group in groupby(sorted(rows, key=by_partition), key=by_partition):
            self._shards[partition].send(list(group))
        if waiting := sum(shard.on_its_way for shard in self._shards.values()):
            self._job.has(waiting)
        else:
            self._job.got_on()
        self._say_what_holds_up()
        self._told |= len(rows) == _ROUND
        return self._told

    async def _remove_acknowledged(self, conn: Connection) -> bool:
        """Whether there may be more of the same partitions."""
        done = [(shard, shard.acknowledged()) for shard in self._shards.values()]
        acknowledged = [row.position for _, rows in done for row in rows]
        if acknowledged:
            await outbox.remove(conn, acknowledged)
            self._meter.published.inc(len(acknowledged))
            self._job.got_on(max(0, self._job.state.waiting - len(acknowledged)))
            self._say_what_holds_up()
        return any(shard.behind for shard, rows in done if rows)

    async def _look(self, conn: Connection) -> None:
        """Renews the leases, and takes those that are free."""
        self._looked_at = asyncio.get_running_loop().time()
        for partition in await outbox.lease(conn, self._owner, self._partitions, LEASE):
            if partition not in self._shards:
                producer = PartitionProducer(
                    self._access, self._topic, partition, len(self._partitions), self._shared
                )
                self._shards[partition] = _Shard(producer, self._has_sent, self._say_what_holds_up)
            self._shards[partition].ours_until = self._looked_at + LEASE.total_seconds()
        self._leave(
            [partition for partition, shard in self._shards.items() if shard.ours_until < self._looked_at]
        )
        self._unowned = await outbox.unowned(conn, self._partitions, LEASE)
        self._strays = await outbox.strays(conn, len(self._partitions))

    def _leave(self, partitions: Collection[int]) -> None:
        for partition in list(partitions):
            self._shards.pop(partition).close()

    def _say_what_holds_up(self) -> None:
        causes = defaultdict(list)
        for partition, shard in sorted(self._shards.items()):
            if shard.trouble:
                causes[shard.trouble].append(partition)
        if self._unowned:
            causes["nobody can take the lease, whose row somebody else has locked"] += self._unowned
        if self._strays:
            strange = (
                f"CHOREO_PARTITIONS is {len(self._partitions)}: set it to what it was when these were decided"
            )
            causes[strange] += self._strays
        if causes:
            told = "; ".join(f"partition {', '.join(map(str, them))}: {why}" for why, them in causes.items())
            self._job.held_up(f"facts wait in the outbox: {told}")

    def _has_sent(self) -> None:
        """One removal serves all that are sent together: who is done waits for the others, if there is no
        more of its partition, and where one of them is stuck, until the next look.
        """
        shards = self._shards.values()
        if any(shard.behind and shard.is_done for shard in shards) or all(shard.is_done for shard in shards):
            self._woken.set()

    def _heard(self, conn: Connection, notify: Notify) -> None:
        if notify.pid != conn.info.backend_pid:
            self._has_told()

    def _has_told(self) -> None:
        self._told = True
        self._woken.set()

    async def _wait(self, conn: Connection) -> None:
        """For news, or until it is time to look all the same. What it was the next statement reads."""
        loop = asyncio.get_running_loop()
        loop.add_reader(conn.fileno(), self._has_told)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._woken.wait()
        finally:
            loop.remove_reader(conn.fileno())


class _Shard:
    """A partition that this process relays."""

    def __init__(
        self, producer: PartitionProducer, on_end: Callable[[], None], on_trouble: Callable[[], None]
    ) -> None:
        self.ours_until = 0.0
        """By this process's monotonic clock, counted from before the database was asked."""
        self.behind = False
        """It was sending when the outbox was looked into, or did not take all that was there."""
        self.trouble: str | None = None
        """Why its batch is not acknowledged."""
        self.sending: asyncio.Task[Sequence[OutboxRow]] | None = None
        self.on_its_way = 0
        """So many facts."""
        self._producer = producer
        self._on_end = on_end
        self._on_trouble = on_trouble

    @property
    def is_done(self) -> bool:
        """Nothing of it is on its way."""
        return self.sending is None or self.sending.done()

    def send(self, rows: Sequence[OutboxRow]) -> None:
        self.sending, self.on_its_way = asyncio.ensure_future(self._send(rows)), len(rows)
        self.sending.add_done_callback(lambda _: self._on_end())

    def acknowledged(self) -> Sequence[OutboxRow]:
        """Those of the last batch, once: then there is room for the next."""
        if self.sending is None or not self.sending.done():
            return ()
        done, self.sending, self.on_its_way = self.sending, None, 0
        return done.result()

    def close(self) -> None:
        """Whatever is on its way may arrive or not."""
        if self.sending:
            self.sending.cancel()
        self._producer.close()

    async def _send(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """The first of these rows, one at least. Ends when Kafka has them."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                sent = rows[: await self._producer.send(rows)]
                self.behind |= len(sent) < len(rows)
                self.trouble = None
                return sent
            except Exception as error:
                self._say(str(error) or repr(error), rows[0].partition)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _say(self, trouble: str, partition: int) -> None:
        if trouble != self.trouble:
            log.warning("relay trouble, trying again", partition=partition, error=trouble)
            self.trouble = trouble
            self._on_trouble()
