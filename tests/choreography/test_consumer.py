"""Billing's consumer between the real Kafka and the real Postgres. Postgres alone says what was read."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from mode.threads import WorkerThread

from choreo.chassis.kafka import consumer, faust_internals, handover
from choreo.chassis.kafka.cluster import Cluster, Member, new_client_id
from choreo.chassis.kafka.topic_log import describe
from choreo.chassis.transaction.inputs import Heard
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.codec import encode
from choreo.operations.reading.checkup import examine
from events.user import UserRegistered
from tests.component.alone import an_event
from tests.locks import held
from tests.services import TOPICS
from tests.shop import BUILDS, PARTITIONS, PATIENCE, Shop, eventually

Offsets = dict[tuple[str, int], int]


async def test_a_record_is_acknowledged_to_kafka_only_after_its_commit(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = apps_of_sessions(monkeypatch)
    await closed_shop.start("billing")
    async with held(closed_shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE") as journal:
        await register(closed_shop, uuid4())
        await journal.keeps_waiting(sessions=1)
        await sessions[-1].consumer.commit()  # whatever was acknowledged to Faust so far
        assert await beyond(closed_shop) == {}
    await eventually(lambda: read(closed_shop), lambda offsets: sum(offsets.values()) == 1)

    async def told() -> Offsets:
        await sessions[-1].consumer.commit()
        return await committed(closed_shop)

    await eventually(told, lambda offsets: sum(offsets.values()) == 1)
    assert await beyond(closed_shop) == {}


async def test_reading_begins_where_postgres_says_whatever_kafka_was_told(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group has committed what billing never saw: a restored database, or another one."""
    first = first_heard(monkeypatch)
    people = [uuid4() for _ in range(3)]
    for person in people[:2]:
        await register(closed_shop, person)
    async with in_the_group(closed_shop) as member:
        await member.commit({topic_partition(closed_shop): 2})
    await closed_shop.start("billing")
    await register(closed_shop, people[2])
    async with asyncio.timeout(PATIENCE):
        assert (await first).offset == 0
    await eventually(lambda: read(closed_shop), lambda offsets: sum(offsets.values()) == 3)
    accounts = closed_shop.rows("billing", "SELECT user_id FROM accounts")
    assert {user for (user,) in accounts} == set(people)


async def test_what_reads_kafka_runs_in_the_services_own_loop(closed_shop: Shop) -> None:
    """Faust's own would be a thread with another one, and each fetch would cross over and back."""
    await closed_shop.start("billing")
    await register(closed_shop, uuid4())
    await eventually(lambda: read(closed_shop), lambda offsets: sum(offsets.values()) == 1)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, WorkerThread)]


# Chunks: whatever becomes of a session, every record is applied once, and in its order.


async def test_nothing_is_lost_or_out_of_order_while_processes_join_and_leave(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one comes and takes partitions away under a chunk, the first ends and comes again."""
    monkeypatch.setattr("choreo.chassis.kafka.consumer._PAUSE", 0.1)
    people = await flood(closed_shop, 1200)
    first_heard_of = first_heard(monkeypatch)
    await closed_shop.begin("billing")
    async with asyncio.timeout(PATIENCE):
        await first_heard_of
    async with another(closed_shop, "billing"):
        people += await flood(closed_shop, 600)
        await eventually(lambda: members(closed_shop), lambda found: len(found) == 2)
        await closed_shop.stop("billing")
        people += await flood(closed_shop, 600)
        await closed_shop.begin("billing")
        await eventually(lambda: members(closed_shop), lambda found: len(found) == 2)
    assert await all_read(closed_shop)
    assert_each_once_and_in_order(closed_shop, people)


async def test_a_chunk_is_gone_on_with_after_a_pause_and_around_what_is_no_event(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some chunks are under way when a partition is paused. Then no more of it are fetched."""
    small_chunks(monkeypatch, records=25)
    monkeypatch.setattr(handover, "PARTITION_WAIT_SECONDS", 0.1)
    paused: asyncio.Queue[Any] = asyncio.Queue()
    pause, take = faust_internals.ChunkedApp.pause, handover.Handover.take
    most = 0

    def noted(app: Any, place: Any) -> None:
        pause(app, place)
        paused.put_nowait(place)

    def counted(self: handover.Handover, place: Any, chunk: Any, partition: Any) -> None:
        nonlocal most
        take(self, place, chunk, partition)
        most = max(most, len(partition.given))

    monkeypatch.setattr(faust_internals.ChunkedApp, "pause", noted)
    monkeypatch.setattr(handover.Handover, "take", counted)
    await closed_shop.start("billing")
    async with held(closed_shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE") as journal:
        people = await flood(closed_shop, 1200, poison=5)
        await journal.keeps_waiting(sessions=1)
        async with asyncio.timeout(PATIENCE):
            await paused.get()
    assert await all_read(closed_shop)
    assert most <= 8 * 25, "of 400 records that were there"
    assert_each_once_and_in_order(closed_shop, people)
    ((parked,),) = closed_shop.rows("billing", "SELECT count(*) FROM parked")
    assert parked == 5


async def test_a_session_ends_in_the_middle_of_a_chunk_and_the_next_goes_on(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after any error: what was handed over and not finished is read again."""
    monkeypatch.setattr("choreo.chassis.kafka.consumer._PAUSE", 0.1)
    sessions = apps_of_sessions(monkeypatch)
    await closed_shop.start("billing")
    async with held(closed_shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE") as journal:
        people = await flood(closed_shop, 900)
        await journal.keeps_waiting(sessions=1)
        await sessions[-1].crash(ConnectionError("as if the broker were gone"))
        await eventually(lambda: number(sessions), lambda count: count == 2)
    assert await all_read(closed_shop)
    assert_each_once_and_in_order(closed_shop, people)


# A session that does not read is begun anew.


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo.chassis.kafka.consumer._WATCH", 0.1)
    monkeypatch.setattr("choreo.chassis.kafka.consumer._START_TIMEOUT_SECONDS", 5.0)
    monkeypatch.setattr("choreo.chassis.kafka.handover.STALLED_SECONDS", 0.5)


async def test_who_has_left_the_group_for_want_of_a_fetch_comes_back(
    watchful: None, closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was after seventeen minutes without a database. Now nobody leaves for that; here one does."""
    monkeypatch.setattr(faust_internals, "POLL_INTERVAL_SECONDS", 0.5)
    small_chunks(monkeypatch, records=10)
    await closed_shop.start("billing")
    async with held(closed_shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE") as journal:
        people = await flood(closed_shop, 500)
        await journal.keeps_waiting(sessions=1)
        await eventually(lambda: members(closed_shop), lambda found: not found)
    people += await flood(closed_shop, 3)
    assert await all_read(closed_shop, within=COMES_BACK_WITHIN), "nobody reads on"
    assert_each_once_and_in_order(closed_shop, people)


async def test_a_group_with_another_protocol_is_named_and_joined_once_it_is_free(
    watchful: None, closed_shop: Shop
) -> None:
    async with stranger(closed_shop, RangePartitionAssignor):
        people = await flood(closed_shop, 3)
        await closed_shop.begin("billing")
        await eventually(lambda: cause(closed_shop), lambda said: "is in the consumer group" in said)
    assert await all_read(closed_shop)
    await closed_shop.ready("billing")
    assert_each_once_and_in_order(closed_shop, people)


async def test_a_stranger_in_the_group_is_named_at_once(watchful: None, closed_shop: Shop) -> None:
    await closed_shop.start("billing")
    async with stranger(closed_shop, RoundRobinPartitionAssignor):
        said = await eventually(lambda: cause(closed_shop), lambda said: "of its partitions: stop it" in said)
        assert said.startswith("a-stranger at ")
        findings = await examine(closed_shop.installation)
        (found,) = [finding for finding in findings if (finding.about, finding.check) == ("billing", "group")]
        assert "a-stranger at " in found.says and found.needs_a_person
        people = await flood(closed_shop, 30)
    assert await all_read(closed_shop)
    await closed_shop.ready("billing")
    assert_each_once_and_in_order(closed_shop, people)


# Words the tests are written in.


async def flood(shop: Shop, people: int, poison: int = 0) -> list[UUID]:
    """So many register, in all partitions; among them are records that are no events."""
    topic = shop.settings.topic_prefix + TOPICS["user"]
    registered = [uuid4() for _ in range(people)]
    async with AIOKafkaProducer(**shop.kafka.admin.aiokafka()) as producer:
        for count, user in enumerate(registered):
            fact = UserRegistered(user_id=user, login=f"ada-{user}", email=f"{user}@example.com")
            record = encode(an_event(fact))
            if count % (people // poison) == 7 if poison else False:
                await producer.send(topic, b"no event", b"%d" % count, count % PARTITIONS)
            await producer.send(topic, record.value, record.key, count % PARTITIONS, headers=record.headers)
    return registered


COMES_BACK_WITHIN = 15.0
"""Seconds to notice that nobody reads and to join the group again."""


def small_chunks(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    """What is fetched ahead is soon full."""
    for where, name in ((faust_internals, "FETCHED_RECORDS"), (handover, "PARTITION_RECORDS")):
        monkeypatch.setattr(where, name, records)


async def all_read(shop: Shop, within: float = 3 * PATIENCE) -> bool:
    """Whether it is, by then."""
    topic = shop.settings.topic_prefix + TOPICS["user"]

    async def left() -> int:
        there = await describe(shop.kafka.admin, [topic])
        known = await read(shop)
        return sum(log.latest - known.get(place, 0) for place, log in there.items())

    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while await left():  # noqa: ASYNC110 - another process gives no signal
                await asyncio.sleep(0.05)
            return True
    return False


def assert_each_once_and_in_order(shop: Shop, people: Collection[UUID]) -> None:
    rows = shop.rows("billing", "SELECT user_id FROM accounts")
    assert sorted(user for (user,) in rows) == sorted(people)
    query = 'SELECT partition, "offset" FROM journal WHERE topic IS NOT NULL ORDER BY position'
    heard = shop.rows("billing", query)
    by_partition: dict[int, list[int]] = {}
    for partition, offset in heard:
        by_partition.setdefault(partition, []).append(offset)
    assert all(offsets == list(range(len(offsets))) for offsets in by_partition.values())


async def members(shop: Shop) -> Sequence[Member]:
    async with Cluster(shop.kafka.admin) as cluster:
        found = await cluster.group(f"{shop.settings.topic_prefix}billing-service")
        return found.members if found.state in ("Stable", "Empty") else ()


async def test_who_was_killed_is_not_waited_for_by_the_next_of_the_same_name(closed_shop: Shop) -> None:
    """Its session lasts for minutes, and its group would wait for it so long."""
    await killed_member(closed_shop, "here:8003")
    await register(closed_shop, uuid4())
    settings = closed_shop.settings.model_copy(update={"instance": "here:8003"})
    runtime, _ = BUILDS["billing"](settings)
    async with runtime.running():
        await eventually(lambda: read(closed_shop), lambda offsets: sum(offsets.values()) == 1)


async def killed_member(shop: Shop, instance: str) -> None:
    """Holds partitions of billing's, without a process that knows."""
    member = AIOKafkaConsumer(
        shop.settings.topic_prefix + TOPICS["user"],
        **shop.kafka.admin.aiokafka(),
        client_id=new_client_id("billing", instance),
        group_id=f"{shop.settings.topic_prefix}billing-service",
        enable_auto_commit=False,
        session_timeout_ms=300_000,
    )
    await member.start()
    assert member.assignment()
    member._coordinator._group_instance_id = "killed"  # who has such an id does not say that he leaves
    await member.stop()


async def cause(shop: Shop) -> str:
    jobs = (await shop.clients["billing"].get("/health/ready")).json()["jobs"]
    return str(jobs["consumer"]["cause"] or "")


async def number(sessions: list[Any]) -> int:
    return len(sessions)


@asynccontextmanager
async def another(shop: Shop, name: str) -> AsyncIterator[None]:
    """One more process of a service."""
    runtime, _ = BUILDS[name](shop.settings)
    async with runtime.running():
        yield


@asynccontextmanager
async def stranger(shop: Shop, assignor: Any) -> AsyncIterator[AIOKafkaConsumer]:
    member = AIOKafkaConsumer(
        shop.settings.topic_prefix + TOPICS["user"],
        **shop.kafka.admin.aiokafka(),
        client_id="a-stranger",
        group_id=f"{shop.settings.topic_prefix}billing-service",
        enable_auto_commit=False,
        partition_assignment_strategy=[assignor],
    )
    await member.start()
    try:
        yield member
    finally:
        await member.stop()


def topic_partition(shop: Shop) -> TopicPartition:
    return TopicPartition(shop.settings.topic_prefix + TOPICS["user"], 0)


async def register(shop: Shop, user: UUID) -> None:
    fact = UserRegistered(user_id=user, login=f"ada-{user}", email=f"{user}@example.com")
    record = encode(an_event(fact))
    topic, partition = topic_partition(shop)
    async with AIOKafkaProducer(**shop.kafka.admin.aiokafka()) as producer:
        await producer.send_and_wait(topic, record.value, record.key, partition, headers=record.headers)


async def read(shop: Shop) -> Offsets:
    """How far billing has read, as it says itself."""
    rows = await asyncio.to_thread(
        shop.rows, "billing", "SELECT topic, partition, next_offset FROM positions"
    )
    return {(topic, partition): next_offset for topic, partition, next_offset in rows}


async def committed(shop: Shop) -> Offsets:
    """How far billing has read, as Kafka was told."""
    async with in_the_group(shop) as member:
        places = [TopicPartition(topic, partition) for topic, partition in await read(shop)]
        return {tuple(place): await member.committed(place) or 0 for place in places}


async def beyond(shop: Shop) -> Offsets:
    """What Kafka was told is read, and Postgres does not know of."""
    told = await committed(shop)
    offsets = await read(shop)
    return {place: offset for place, offset in told.items() if offset > offsets[place]}


@asynccontextmanager
async def in_the_group(shop: Shop) -> AsyncIterator[AIOKafkaConsumer]:
    """Knows the group's offsets; reads nothing and takes no partition from anybody."""
    member = AIOKafkaConsumer(
        **shop.kafka.admin.aiokafka(),
        group_id=f"{shop.settings.topic_prefix}billing-service",
        enable_auto_commit=False,
    )
    await member.start()
    try:
        member.assign([topic_partition(shop)])
        yield member
    finally:
        await member.stop()


def apps_of_sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One for each session of the consumer."""
    apps: list[Any] = []
    make = faust_internals.ChunkedApp

    def made(*args: Any) -> Any:
        apps.append(make(*args))
        return apps[-1]

    monkeypatch.setattr(consumer, "ChunkedApp", made)
    return apps


def first_heard(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Future[Heard]":
    """The first record that a consumer hands to a kernel."""
    first: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
    hear = Kernel.hear

    def look(kernel: Kernel[Any], heard: Heard) -> None:
        if not first.done():
            first.set_result(heard)
        hear(kernel, heard)

    monkeypatch.setattr(Kernel, "hear", look)
    return first
