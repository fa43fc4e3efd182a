"""The relay between a real outbox and a real Kafka: everything, in order, byte for byte, at least once."""

import asyncio
import os
import re
import signal
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, make_engine, raw_connection
from choreo.chassis.database.round_trip import RoundTrip
from choreo.chassis.kafka import cluster, relay
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.cluster import Cluster
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.kafka.relay import Relay, _Shard, partition_of
from choreo.chassis.observe.health import Job, JobState, NotReady
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record
from events.billing import MoneyDeposited
from tests.brokers import Broker
from tests.component.alone import an_event
from tests.databases import Database, a_database
from tests.locks import held
from tests.shop import PATIENCE, eventually

PARTITIONS = 3
Place = tuple[int, Record]


async def add(conn: Connection, rows: Sequence[OutboxRow]) -> None:
    async with RoundTrip(conn) as trip:
        outbox.add(trip, rows)


@dataclass
class Post:
    """An outbox and the topic its facts go to."""

    topic: str
    access: KafkaAccess
    database: Database
    engine: AsyncEngine
    job: Job = field(default_factory=Job)
    """Of the relay that was made last."""

    def relay(
        self, bootstrap: str | None = None, partitions: int = PARTITIONS, owner: UUID | None = None
    ) -> Relay:
        access = replace(self.access, bootstrap=bootstrap or self.access.bootstrap)
        meter, self.job = Meter(CollectorRegistry()), Job()
        owner = owner or uuid4()
        return Relay(self.topic, partitions, self.engine, access, owner=owner, job=self.job, meter=meter)

    def facts(self, users: list[UUID], each: int, first: int = 1) -> list[OutboxRow]:
        """So many facts of each user, the users taking turns."""
        rows = []
        for number in range(first, first + each):
            for user in users:
                fact = MoneyDeposited(entry_id=uuid4(), user_id=user, amount=number, balance=number)
                event = an_event(fact, sequence=number)
                rows.append(outbox.row_of(event, partition_of(event.key, PARTITIONS)))
        return rows

    async def decide(self, users: list[UUID], each: int, first: int = 1) -> list[OutboxRow]:
        """Such facts in one commit; as they lie in the outbox."""
        rows = self.facts(users, each, first)
        async with raw_connection(self.engine) as conn:
            await add(conn, rows)
            await conn.commit()
        return rows

    async def emptied(self, *but: int) -> None:
        """Returns once nothing waits, but in these partitions."""
        await eventually(
            lambda: asyncio.to_thread(self.unpublished), lambda partitions: partitions.issubset(but)
        )

    def unpublished(self) -> set[int]:
        return {partition for (partition,) in self.database.rows("SELECT partition FROM outbox")}

    async def says(self, sentence: str) -> None:
        """Returns once the relay's job says so."""
        await eventually(self._state, lambda state: re.search(sentence, state.cause or "") is not None)

    async def is_ready(self) -> None:
        """Returns once the relay's job is: it hears a moment after the outbox that all is published."""
        await eventually(self._state, lambda state: state.ready)

    async def _state(self) -> JobState:
        return self.job.state

    async def owned(self) -> set[int]:
        """The partitions that some relay owns."""
        query = "SELECT partition FROM relay_leases WHERE leased_until > clock_timestamp()"
        return {partition for (partition,) in self.database.rows(query)}

    async def all_owned(self) -> None:
        await eventually(self.owned, lambda owned: owned == set(range(PARTITIONS)))

    async def arrived(self) -> list[Place]:
        """All that is on the topic now: partition and record, in order."""
        consumer = AIOKafkaConsumer(**self.access.aiokafka(), auto_offset_reset="earliest")
        await consumer.start()
        try:
            partitions = [TopicPartition(self.topic, partition) for partition in range(PARTITIONS)]
            consumer.assign(partitions)
            count = sum((await consumer.end_offsets(partitions)).values())
            places: list[Place] = []
            async with asyncio.timeout(PATIENCE):
                while len(places) < count:
                    for tp, messages in (await consumer.getmany(timeout_ms=1000)).items():
                        places += [
                            (tp.partition, Record(message.key, message.value, list(message.headers)))
                            for message in messages
                        ]
            return places
        finally:
            await consumer.stop()


@pytest.fixture
async def post(kafka: Broker, postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Post]:
    topic = f"t{uuid4().hex[:10]}-billing-events"
    await asyncio.to_thread(declare_topics, kafka.admin, [topic], PARTITIONS)
    with a_database("billing", postgres, templates) as database:
        engine = make_engine(database.runtime_url)
        yield Post(topic, kafka.admin, database, engine)
        await engine.dispose()


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def assert_first_occurrences_in_order(places: list[Place], decided: list[OutboxRow]) -> None:
    """Nothing is lost, nothing is altered, and per key what comes for the first time comes in order."""
    expected: dict[bytes, list[Place]] = {}
    for row in decided:
        expected.setdefault(row.key.encode(), []).append((row.partition, row.record))
    found: dict[bytes, list[Place]] = {}
    for place in places:
        first_time = found.setdefault(place[1].key or b"", [])
        if place not in first_time:
            first_time.append(place)
    assert found == expected


async def test_facts_arrive_in_order_and_byte_for_byte(post: Post) -> None:
    users = [uuid4() for _ in range(7)]
    decided = await post.decide(users, 40)
    async with running(post.relay()):
        await post.emptied()
    places = await post.arrived()
    assert len(places) == len(decided), "without trouble nothing repeats"
    assert_first_occurrences_in_order(places, decided)


async def test_it_is_woken_by_news(post: Post) -> None:
    ada = uuid4()
    relay = post.relay()
    async with running(relay):
        decided = await post.decide([ada], 1)
        for number in range(2, 6):
            relay.wake()
            await post.emptied()
            decided += await post.decide([ada], 1, first=number)
        relay.wake()
        await post.emptied()
        await relay.probe()
    assert_first_occurrences_in_order(await post.arrived(), decided)


@dataclass
class SlowKafka:
    """Every batch reaches the topic; that it did is told to the relay only when the test says so."""

    delivered: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledge: asyncio.Event = field(default_factory=asyncio.Event)

    async def holds_a_batch(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.delivered.wait()


@pytest.fixture
def slow_kafka(monkeypatch: pytest.MonkeyPatch) -> SlowKafka:
    slow = SlowKafka()
    produce = Cluster.produce

    async def wait(cluster: Cluster, *batches: Any) -> dict[int, KafkaError]:
        errors = await produce(cluster, *batches)
        slow.delivered.set()
        await slow.acknowledge.wait()
        return errors

    monkeypatch.setattr(Cluster, "produce", wait)
    return slow


async def test_a_fact_stays_in_the_outbox_until_kafka_has_acknowledged_it(
    post: Post, slow_kafka: SlowKafka
) -> None:
    """Kafka has it already, and the acknowledgement is on its way: the row is still there."""
    decided = await post.decide([uuid4()], 3)
    async with running(post.relay()):
        await slow_kafka.holds_a_batch()
        assert len(await post.arrived()) == 3
        assert post.database.count("outbox") == 3
        slow_kafka.acknowledge.set()
        await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_a_partition_whose_batch_is_on_its_way_keeps_no_other_from_its_next(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = Cluster.produce
    ada, eve = users_of_two_partitions()
    slow = partition_of(str(eve), PARTITIONS)
    on_its_way, acknowledge = asyncio.Event(), asyncio.Event()

    async def wait(
        cluster: Cluster, leader: Any, topic: str, batches: dict[int, bytes], within_ms: int = 10**6
    ) -> dict[int, KafkaError]:
        """As a leader whose followers do not take one partition, and who says so in the end."""
        errors = await produce(cluster, leader, topic, batches)
        if slow in batches:
            on_its_way.set()
            try:
                async with asyncio.timeout(within_ms / 1000):
                    await acknowledge.wait()
            except TimeoutError:
                errors[slow] = RequestTimedOutError()
        return errors

    monkeypatch.setattr(Cluster, "produce", wait)
    decided = await post.decide([ada, eve], 2)
    relay = post.relay()
    async with running(relay):
        async with asyncio.timeout(PATIENCE):
            await on_its_way.wait()
        for number in range(3, 6):
            decided += await post.decide([ada, eve], 1, first=number)
            relay.wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE / 6):
                    await post.emptied(slow)
            assert post.unpublished() == {slow}
        acknowledge.set()
        await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_a_fact_that_is_committed_after_younger_ones_were_published_is_published_too(
    post: Post, slow_kafka: SlowKafka
) -> None:
    """A slow transaction took the lower position. It commits while Kafka acknowledges the higher ones."""
    ada, eve = two_users_of_one_partition()
    late = post.facts([ada], 2)
    async with raw_connection(post.engine) as slow:
        await add(slow, late)
        early = await post.decide([eve], 2)
        async with running(post.relay()):
            await slow_kafka.holds_a_batch()
            await slow.commit()
            slow_kafka.acknowledge.set()
            await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), early + late)


def two_users_of_one_partition() -> tuple[UUID, UUID]:
    one = uuid4()
    there = partition_of(str(one), PARTITIONS)
    return one, next(user for user in iter(uuid4, None) if partition_of(str(user), PARTITIONS) == there)


async def test_after_an_error_the_same_facts_come_first_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some batches are lost on the way, of others only the acknowledgement. Nothing is lost, nothing comes
    twice, and nothing is overtaken by what was decided meanwhile.
    """
    produce = Cluster.produce
    calls = 0
    users = [uuid4() for _ in range(12)]  # enough for every partition
    decided = await post.decide(users, 5)

    async def lossy(cluster: Cluster, *batches: Any) -> dict[int, KafkaError]:
        nonlocal calls, decided
        calls += 1
        call = calls
        if call == 2:
            decided += await post.decide(users, 5, first=6)
            raise KafkaConnectionError("lost on the way there")
        errors = await produce(cluster, *batches)
        if call == 4:
            raise KafkaConnectionError("lost on the way back")
        return errors

    monkeypatch.setattr(Cluster, "produce", lossy)
    async with running(post.relay()):
        await post.emptied()
    assert calls > 4
    places = await post.arrived()
    assert_first_occurrences_in_order(places, decided)
    assert len(places) == len(decided), "Kafka knows a batch again"


@pytest.mark.parametrize(
    ("statement", "values", "index"),
    [
        (outbox._LOWEST.text, "'{0}', '{1000}'", "outbox_pkey"),
        (outbox._STRAYS.replace("%s", "$1"), "12", "outbox_partition"),
        (outbox._SINCE, "", "outbox_partition"),
    ],
    ids=["lowest", "strays", "since"],
)
async def test_whatever_is_looked_for_all_the_time_is_found_by_index(
    post: Post, statement: str, values: str, index: str
) -> None:
    """A scan of the outbox passes over all that was published since it was vacuumed: some 100,000 rows."""
    async with raw_connection(post.engine) as conn:
        await conn.execute(f"PREPARE looking AS {statement}")
        rows = await conn.execute("EXPLAIN EXECUTE looking" + (f"({values})" if values else ""))
        plan = "\n".join(line for (line,) in await rows.fetchall())
    assert index in plan
    assert "Seq Scan" not in plan


async def test_two_relays_on_one_outbox(post: Post) -> None:
    """The second takes over where the first ends, in the middle of its work."""
    users = [uuid4() for _ in range(12)]
    decided = await post.decide(users, 200)
    first, second = post.relay(), post.relay()
    async with AsyncExitStack() as stack:
        async with running(first):
            await stack.enter_async_context(running(second))

            async def left() -> int:
                return post.database.count("outbox")

            await eventually(left, lambda number: number < len(decided))
            decided += await post.decide(users, 50, first=201)
            first.wake()
        decided += await post.decide(users, 50, first=251)
        second.wake()
        await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_one_relay_at_a_time_owns_a_partition(post: Post) -> None:
    """While one relay holds the leases, another one gets none and publishes nothing, whatever it is told."""
    owner, other = post.relay(), post.relay()
    async with running(owner):
        await post.all_owned()
        looked = looks(other)
        async with running(other):
            async with asyncio.timeout(PATIENCE):
                await looked
            assert not other._shards
            decided = await post.decide([uuid4() for _ in range(12)], 20)
            owner.wake()
            other.wake()
            await post.emptied()
        assert await post.owned() == set(range(PARTITIONS))
    assert await post.owned() == set(), "they are given back"
    places = await post.arrived()
    assert len(places) == len(decided), "nobody published twice"


async def test_what_a_dead_relay_owned_another_takes_when_the_lease_is_over(post: Post) -> None:
    """By the database's clock: what time the processes have is of no account."""
    decided = await post.decide([uuid4() for _ in range(12)], 2)
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, range(PARTITIONS))
        assert len(await outbox.lease(conn, uuid4(), range(PARTITIONS), timedelta(seconds=2))) == PARTITIONS
        await conn.commit()
    relay = post.relay()
    looked = looks(relay)
    async with running(relay):
        async with asyncio.timeout(PATIENCE):
            await looked
        assert not relay._shards
        assert post.database.count("outbox") == len(decided)
        await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_what_its_predecessor_owned_a_relay_takes_at_once(post: Post) -> None:
    owner = uuid4()
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, range(PARTITIONS))
        assert len(await outbox.lease(conn, owner, range(PARTITIONS), timedelta(hours=1))) == PARTITIONS
        await conn.commit()
    await post.decide([uuid4()], 2)
    async with running(post.relay(owner=owner)):
        await post.emptied()


async def test_whoever_may_only_look_takes_no_lease(post: Post, postgres: Postgres) -> None:
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, range(PARTITIONS))
        await conn.commit()
    with psycopg.connect(postgres.observer_url(post.database.name), autocommit=True) as observer:
        assert len(observer.execute("SELECT * FROM relay_leases").fetchall()) == PARTITIONS
        for statement in (b"SELECT * FROM relay_leases FOR UPDATE", b"UPDATE relay_leases SET owner = NULL"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                observer.execute(statement)


async def test_leases_that_are_declared_again_stay_with_their_owner(post: Post) -> None:
    everything = range(PARTITIONS)
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, everything)
        assert await outbox.lease(conn, uuid4(), everything, timedelta(minutes=1)) == set(everything)
        await outbox.declare_leases(conn, everything)
        assert await outbox.lease(conn, uuid4(), everything, timedelta(minutes=1)) == set()


async def test_who_takes_leases_waits_for_nobody(post: Post) -> None:
    everything = range(PARTITIONS)
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, everything)
        await conn.commit()
        locking = "SELECT FROM relay_leases WHERE partition = 1 FOR UPDATE"
        async with held(post.database.owner_url, locking):
            assert await outbox.lease(conn, uuid4(), everything, timedelta(minutes=1)) == {*everything} - {1}


async def test_a_shard_that_nobody_can_own_is_named_and_the_others_go_on(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that has nothing to do with it holds the row of one lease."""
    monkeypatch.setattr(relay, "LEASE", timedelta(seconds=2))
    decided = await post.decide([uuid4() for _ in range(12)], 2)
    async with raw_connection(post.engine) as conn:
        await outbox.declare_leases(conn, range(PARTITIONS))
        await conn.commit()
    locking = "SELECT FROM relay_leases WHERE partition = 1 FOR UPDATE"
    async with held(post.database.owner_url, locking):
        stack = running(post.relay())
        await stack.__aenter__()
        await post.emptied(1)
        await post.says("partition 1: nobody can take the lease")
    await post.emptied()
    await post.is_ready()
    await stack.__aexit__(None, None, None)
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_what_another_process_decided_is_published_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owns no shard. Nobody looks by himself for as long as the test has patience."""
    owner, other = post.relay(), post.relay()
    monkeypatch.setattr(relay, "LEASE", timedelta(seconds=10 * PATIENCE))
    async with running(owner):
        await post.all_owned()
        monkeypatch.setattr(relay, "_POLL_SECONDS", 10 * PATIENCE)
        async with running(other):
            decided: list[OutboxRow] = []
            for number in range(1, 5):
                decided += await post.decide([uuid4() for _ in range(3)], 1, first=number)
                other.wake()
                await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_an_acknowledgement_is_a_reason_to_look_only_where_more_was_decided_meanwhile(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by himself for as long as the test has patience."""
    ada, looked, lowest, send = uuid4(), asyncio.Queue[None](), outbox.lowest, _Shard._send
    may_send = asyncio.Event()
    may_send.set()

    async def look(*args: Any) -> list[OutboxRow]:
        looked.put_nowait(None)
        return await lowest(*args)

    async def send_later(self: _Shard, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        await may_send.wait()
        return await send(self, rows)

    monkeypatch.setattr(_Shard, "_send", send_later)
    sender = post.relay()
    async with running(sender):
        await post.all_owned()
        monkeypatch.setattr(relay, "_POLL_SECONDS", 10 * PATIENCE)
        decided = await post.decide([ada], 1)
        sender.wake()
        await post.emptied()
        monkeypatch.setattr(outbox, "lowest", look)
        may_send.clear()
        for number in (2, 3):
            decided += await post.decide([ada], 1, first=number)
            sender.wake()
            await looked.get()
        may_send.set()
        await post.emptied()
        await looked.get()
        decided += await post.decide([ada], 1, first=4)
        sender.wake()
        await post.emptied()
        await looked.get()
    assert looked.empty()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_what_was_sent_together_is_removed_together(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by himself for as long as the test has patience."""
    users, remove, send = [uuid4() for _ in range(20)], outbox.remove, _Shard._send
    removed: list[set[int]] = []
    answered: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def note(conn: Connection, positions: Sequence[int]) -> None:
        removed.append(set(positions))
        await remove(conn, positions)

    async def send_and_wait(self: _Shard, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        sent = await send(self, rows)
        await answered[rows[0].partition].wait()
        return sent

    monkeypatch.setattr(_Shard, "_send", send_and_wait)
    sender = post.relay()
    async with running(sender):
        await post.all_owned()
        monkeypatch.setattr(relay, "_POLL_SECONDS", 10 * PATIENCE)
        monkeypatch.setattr(outbox, "remove", note)
        decided = await post.decide(users, 1)
        sender.wake()
        partitions = {row.partition for row in decided}
        await eventually(post.arrived, lambda places: len(places) == len(decided))
        for partition in partitions:
            sending = sender._shards[partition].sending
            assert sending is not None and not sending.done()
            answered[partition].set()
            await sending
        await post.emptied()
    assert len(partitions) > 1
    assert list(map(len, removed)) == [len(decided)]


def looks(relay: Relay) -> "asyncio.Future[None]":
    """When it has asked for leases for the first time."""
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    look = relay._look

    async def ask(conn: Connection) -> None:
        await look(conn)
        if not first.done():
            first.set_result(None)

    relay._look = ask  # type: ignore[method-assign]
    return first


async def test_a_relay_that_began_without_kafka_publishes_once_it_is_there(post: Post) -> None:
    """Kafka's address answers nobody at first. (Later it leads to the broker, which names its own.)"""
    (port,) = free_ports(1)
    relay = post.relay(f"{LOOPBACK}:{port}")
    decided = await post.decide([uuid4(), uuid4()], 5)
    async with running(relay):
        await post.says(f"facts wait in the outbox: partition .*{LOOPBACK}:{port}|'{LOOPBACK}', {port}")
        with pytest.raises(NotReady, match=f"Kafka at {LOOPBACK}:{port} does not answer"):
            await relay.probe()
        assert post.database.count("outbox") == len(decided)
        async with forwarding(port, post.access.bootstrap):
            await post.emptied()
        await post.is_ready()
    assert_first_occurrences_in_order(await post.arrived(), decided)


@asynccontextmanager
async def forwarding(port: int, to: str) -> AsyncIterator[None]:
    host, _, to_port = to.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(to_port))
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    server = await asyncio.start_server(forward, LOOPBACK, port)
    try:
        yield
    finally:
        server.close()


async def test_a_topic_with_fewer_partitions_gets_nothing(post: Post) -> None:
    """Keys would move: better nothing than the wrong place."""
    await post.decide([uuid4()], 1)
    async with running(post.relay(partitions=PARTITIONS + 1)):
        await post.says(f"has {PARTITIONS} partitions and CHOREO_PARTITIONS says {PARTITIONS + 1}")
    assert post.database.count("outbox") == 1


async def test_a_topic_that_grew_keeps_its_keys_where_they_are(post: Post) -> None:
    users = [uuid4() for _ in range(12)]
    decided = await post.decide(users, 2)
    relay = post.relay()
    async with running(relay):
        await post.emptied()
        admin = AdminClient(post.access.confluent())
        grown = admin.create_partitions([NewPartitions(post.topic, PARTITIONS + 2)])
        await asyncio.to_thread(grown[post.topic].result)
        decided += await post.decide(users, 2, first=3)
        relay.wake()
        await post.emptied()
    decided += await post.decide(users, 2, first=5)
    async with running(relay := post.relay()):
        await post.emptied()
        await relay.probe()
        await post.is_ready()
    assert_first_occurrences_in_order(await post.arrived(), decided)


async def test_facts_of_partitions_that_are_used_no_more_are_named_and_the_others_go_out(post: Post) -> None:
    """CHOREO_PARTITIONS was lowered while some were unpublished."""
    used, no_more = users_of_two_partitions()
    if partition_of(str(used), PARTITIONS) > partition_of(str(no_more), PARTITIONS):
        used, no_more = no_more, used
    await post.decide([used, no_more], 1)
    stray = partition_of(str(no_more), PARTITIONS)
    async with running(post.relay(partitions=stray)):
        await post.says(f"partition {stray}: CHOREO_PARTITIONS is {stray}: set it to what it was")
        await post.emptied(stray)
    async with running(post.relay()):
        await post.emptied()
        await post.is_ready()


async def test_a_host_that_is_silent_keeps_nobody_from_the_others(post: Post) -> None:
    """Frozen, it takes connections and says nothing. Which one is asked first is chance."""
    with ExitStack() as silent:
        sockets = [silent.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(3)]
        hosts = [f"{LOOPBACK}:{one.getsockname()[1]}" for one in sockets]
        await post.relay(bootstrap=",".join([*hosts, post.access.bootstrap])).probe()


async def takes_at_most(post: Post, size: int) -> None:
    resource = ConfigResource(ResourceType.TOPIC, post.topic)
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient(post.access.confluent())
    altered = admin.incremental_alter_configs([resource])
    await asyncio.to_thread(altered[resource].result)


async def test_a_batch_that_kafka_finds_too_large_is_split(post: Post) -> None:
    """It takes a record of this size, and not two."""
    users = [uuid4() for _ in range(4)]
    decided = await post.decide(users, 8)
    await takes_at_most(post, 1000)
    async with running(post.relay()):
        await post.emptied()
        await post.is_ready()
    places = await post.arrived()
    assert_first_occurrences_in_order(places, decided)
    assert len(places) == len(decided)


async def test_a_record_that_kafka_finds_too_large_holds_up_its_partition_alone(post: Post) -> None:
    ada, eve = users_of_two_partitions()
    decided = await post.decide([ada, eve], 1)
    large = [replace(row, value=row.value.ljust(3000)) for row in post.facts([ada], 1, first=2)]
    async with raw_connection(post.engine) as conn:
        await add(conn, large)
        await conn.commit()
    decided += large + await post.decide([ada, eve], 3, first=3)
    await takes_at_most(post, 2000)
    there = partition_of(str(ada), PARTITIONS)
    async with running(post.relay()):
        await post.emptied(there)
        await post.says(f"partition {there}: .*MessageSizeTooLargeError")
        await takes_at_most(post, 10_000)
        await post.emptied()
        await post.is_ready()
    assert_first_occurrences_in_order(await post.arrived(), decided)


@pytest.fixture
def two_brokers(tmp_path: Path) -> Iterator[tuple[Kafka, Kafka]]:
    """The second is not taken for dead, however long it stands still: it leads what it leads."""
    ports = [(port, controller) for port, controller in (free_ports(2), free_ports(2))]
    common = {
        "controller.quorum.voters": f"1@{LOOPBACK}:{ports[0][1]}",
        "broker.session.timeout.ms": "600000",
        "min.insync.replicas": "1",
    }
    second = {"process.roles": "broker", "listeners": f"CLIENTS://{LOOPBACK}:{ports[1][0]}"}
    secrets = tmp_path / "secrets.json"
    nodes = [
        Kafka(
            tmp_path / str(node),
            *ports[node - 1],
            cache=cache_directory(),
            secrets_file=secrets,
            settings=common | settings,
            node=node,
            nodes=ports,
        )
        for node, settings in ((1, {}), (2, second))
    ]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            if node.child:
                node.kill()


async def test_a_partition_whose_leader_does_not_answer_delays_only_itself(
    two_brokers: tuple[Kafka, Kafka], post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile nothing piles up in the process, and afterwards nothing was published twice."""
    monkeypatch.setattr(cluster, "_TIMEOUT_MS", 500)
    first, second = two_brokers
    post = replace(post, access=first.admin)
    await asyncio.to_thread(declare_topics, post.access, [post.topic], PARTITIONS)
    async with Cluster(post.access) as kafka:
        metadata = await kafka.metadata([post.topic])
    there = {number for number in range(PARTITIONS) if metadata.leader(post.topic, number)[1] == second.port}
    assert 0 < len(there) < PARTITIONS
    users = [uuid4() for _ in range(24)]
    decided = await post.decide(users, 2)
    relay = post.relay()
    failures = counted(monkeypatch)
    async with running(relay):
        await post.emptied()
        second.pause()
        try:
            for number in range(3, 6):
                decided += await post.decide(users, 1, first=number)
                relay.wake()
                await post.emptied(*there)
            await post.says(f"partition {', '.join(map(str, sorted(there)))}: .*:{second.port}: no answer")
            assert not post.job.state.ready
            await failures.more(2 * len(there))
            tasks, files = len(asyncio.all_tasks()), open_files()
            await failures.more(6 * len(there))
            assert len(asyncio.all_tasks()) <= tasks + 2 * len(there)
            assert open_files() <= files + 2 * len(there)
            assert await asyncio.to_thread(post.unpublished) == there
        finally:
            second.resume()
        await post.emptied()
        await post.is_ready()
    places = await post.arrived()
    assert_first_occurrences_in_order(places, decided)
    assert len(places) == len(decided), "Kafka knows a batch again"


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@dataclass
class Failures:
    """Of batches."""

    count: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def more(self, number: int) -> None:
        wanted = self.count + number
        async with asyncio.timeout(PATIENCE):
            while self.count < wanted:
                self.happened.clear()
                await self.happened.wait()


def counted(patch: pytest.MonkeyPatch) -> Failures:
    failures = Failures()
    send = PartitionProducer.send

    async def count(producer: PartitionProducer, rows: Sequence[OutboxRow]) -> int:
        try:
            return await send(producer, rows)
        except Exception:
            failures.count += 1
            failures.happened.set()
            raise

    patch.setattr(PartitionProducer, "send", count)
    return failures


def users_of_two_partitions() -> tuple[UUID, UUID]:
    one = uuid4()
    there = partition_of(str(one), PARTITIONS)
    return one, next(user for user in iter(uuid4, None) if partition_of(str(user), PARTITIONS) != there)


async def test_a_bug_in_sending_one_partition_is_its_own(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    send = PartitionProducer.send

    async def buggy(producer: PartitionProducer, rows: Sequence[OutboxRow]) -> int:
        if rows[0].partition == 1:
            raise ValueError("whoever wrote this")
        return await send(producer, rows)

    decided = await post.decide([uuid4() for _ in range(12)], 3)
    with monkeypatch.context() as patch:
        patch.setattr(PartitionProducer, "send", buggy)
        stack = running(post.relay())
        await stack.__aenter__()
        await post.emptied(1)
        await post.says("partition 1: whoever wrote this")
    await post.emptied()
    await stack.__aexit__(None, None, None)
    assert_first_occurrences_in_order(await post.arrived(), decided)


OTHER_SESSIONS = """SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
"""Autovacuum's too, at times."""


async def test_a_session_that_answers_no_more_is_given_up(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that serves it stands still. It is told so, and another session goes on."""
    monkeypatch.setattr(relay, "DATABASE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(relay, "LEASE", timedelta(seconds=2))
    passing = post.relay()
    async with running(passing):
        await post.all_owned()
        pids = [pid for (pid,) in post.database.rows(OTHER_SESSIONS)]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            decided = await post.decide([uuid4()], 3)
            passing.wake()
            await post.says("the outbox cannot be read: TimeoutError")
            await post.emptied()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert_first_occurrences_in_order(await post.arrived(), decided)
