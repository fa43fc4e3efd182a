"""The relay between a real outbox and a real Kafka: everything, in order, byte for byte, at least once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, make_engine, raw_connection
from choreo.chassis.kafka import relay
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.relay import Relay, partition_of
from choreo.chassis.kafka.topics import declare_topics
from choreo.chassis.observe.health import NotReady
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record
from events.billing import MoneyDeposited
from tests.brokers import Broker
from tests.component.alone import Database, a_database, an_event
from tests.shop import PATIENCE, eventually

PARTITIONS = 3
Place = tuple[int, Record]


@dataclass
class Post:
    """An outbox and the topic its facts go to."""

    topic: str
    access: KafkaAccess
    database: Database
    engine: AsyncEngine

    def relay(self, bootstrap: str | None = None) -> Relay:
        access = replace(self.access, bootstrap=bootstrap or self.access.bootstrap)
        return Relay(self.topic, PARTITIONS, self.engine, access, Meter(CollectorRegistry()))

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
            await outbox.add(conn, rows)
            await conn.commit()
        return rows

    async def emptied(self) -> None:
        async def left() -> int:
            return self.database.count("outbox")

        await eventually(left, lambda number: number == 0)

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
    send_batch = AIOKafkaProducer.send_batch

    async def send(producer: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        acknowledged = await send_batch(producer, *args, **kwargs)

        async def wait() -> Any:
            result = await acknowledged
            slow.delivered.set()
            await slow.acknowledge.wait()
            return result

        return wait()

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", send)
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


async def test_a_fact_that_is_committed_after_younger_ones_were_published_is_published_too(
    post: Post, slow_kafka: SlowKafka
) -> None:
    """A slow transaction took the lower position. It commits while Kafka acknowledges the higher ones."""
    ada, eve = two_users_of_one_partition()
    late = post.facts([ada], 2)
    async with raw_connection(post.engine) as slow:
        await outbox.add(slow, late)
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
    """Some batches are lost on the way, of others only the acknowledgement. Nothing is lost, and nothing is
    overtaken by what was decided meanwhile.
    """
    send_batch = AIOKafkaProducer.send_batch
    calls = 0
    users = [uuid4() for _ in range(12)]  # enough for every partition
    decided = await post.decide(users, 5)

    async def lossy(producer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls, decided
        calls += 1
        if calls == 2:
            decided += await post.decide(users, 5, first=6)
            raise ConnectionError("lost on the way there")
        acknowledged = await send_batch(producer, *args, **kwargs)
        if calls == 4:
            await acknowledged
            raise ConnectionError("lost on the way back")
        return acknowledged

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", lossy)
    async with running(post.relay()):
        await post.emptied()
    assert calls > PARTITIONS + 1
    assert_first_occurrences_in_order(await post.arrived(), decided)


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
    """While one relay holds the shards, another one gets none and publishes nothing, whatever it is told."""
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    held += "(SELECT oid FROM pg_database WHERE datname = current_database())"
    owner, other = post.relay(), post.relay()

    async def locks() -> int:
        ((number,),) = post.database.rows(held)
        return int(number)

    async with running(owner):
        await eventually(locks, lambda number: number == PARTITIONS)
        got = shards_it_gets(other)
        async with running(other):
            async with asyncio.timeout(PATIENCE):
                assert await got == []
            decided = await post.decide([uuid4() for _ in range(12)], 20)
            owner.wake()
            other.wake()
            await post.emptied()
            assert await locks() == PARTITIONS
    await eventually(locks, lambda number: number == 0)
    places = await post.arrived()
    assert len(places) == len(decided), "nobody published twice"


async def test_what_another_process_decided_is_published_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owns no shard. Nobody looks by himself for as long as the test has patience."""
    owner, other = post.relay(), post.relay()
    got = shards_it_gets(owner)
    async with running(owner):
        async with asyncio.timeout(PATIENCE):
            assert len(await got) == PARTITIONS
        monkeypatch.setattr(relay, "_POLL", 10 * PATIENCE)
        async with running(other):
            decided: list[OutboxRow] = []
            for number in range(1, 5):
                decided += await post.decide([uuid4() for _ in range(3)], 1, first=number)
                other.wake()
                await post.emptied()
    assert_first_occurrences_in_order(await post.arrived(), decided)


def shards_it_gets(relay: Relay) -> "asyncio.Future[list[int]]":
    """When it asks for the first time."""
    first: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    own = relay._own

    async def ask(conn: Connection, owned: Sequence[int]) -> list[int]:
        found = await own(conn, owned)
        if not first.done():
            first.set_result(found)
        return found

    relay._own = ask  # type: ignore[method-assign]
    return first


async def test_a_relay_that_began_without_kafka_publishes_once_it_is_there(post: Post) -> None:
    """Kafka's address answers nobody at first. (Later it leads to the broker, which names its own.)"""
    (port,) = free_ports(1)
    relay = post.relay(f"{LOOPBACK}:{port}")
    decided = await post.decide([uuid4(), uuid4()], 5)
    async with running(relay):
        async with asyncio.timeout(PATIENCE):
            while relay._producer is None:  # noqa: ASYNC110 - it tries, which gives no signal
                await asyncio.sleep(0)
            while relay._producer is not None:  # noqa: ASYNC110 - and fails
                await asyncio.sleep(0.01)
        with pytest.raises(NotReady, match=f"Kafka at {LOOPBACK}:{port} does not answer"):
            await relay.probe()
        assert post.database.count("outbox") == len(decided)
        async with forwarding(port, post.access.bootstrap):
            await post.emptied()
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


async def test_a_topic_of_another_shape_gets_nothing(post: Post) -> None:
    """With another number of partitions keys would move: better nothing than the wrong place."""
    relay = Relay(post.topic, PARTITIONS + 1, post.engine, post.access, Meter(CollectorRegistry()))
    checked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    check: Callable[[Any], Awaitable[None]] = relay._check_partitions

    async def look(producer: Any) -> None:
        try:
            await check(producer)
        finally:
            if not checked.done():
                checked.set_result(None)

    relay._check_partitions = look  # type: ignore[method-assign]
    await post.decide([uuid4()], 1)
    async with running(relay):
        async with asyncio.timeout(PATIENCE):
            await checked
        with pytest.raises(Exception, match="has 3 partitions and CHOREO_PARTITIONS says 4"):
            async with _producer(post.access) as producer:
                await check(producer)
    assert post.database.count("outbox") == 1


@asynccontextmanager
async def _producer(access: KafkaAccess) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(**access.aiokafka())
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
