"""Billing's consumer between the real Kafka and the real Postgres. Postgres alone says what was read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from choreo.chassis.kafka import consumer
from choreo.chassis.settings import TOPICS
from choreo.chassis.transaction.inputs import Heard
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.codec import encode
from events.user import UserRegistered
from tests.component.alone import an_event
from tests.locks import held
from tests.shop import PATIENCE, Shop, eventually

Offsets = dict[tuple[str, int], int]


async def test_a_record_is_acknowledged_to_kafka_only_after_its_commit(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = faust_apps(monkeypatch)
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


# Words the tests are written in.


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


def faust_apps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One for each session of the consumer."""
    apps: list[Any] = []
    make = consumer._FaustApp

    def made(*args: Any) -> Any:
        apps.append(make(*args))
        return apps[-1]

    monkeypatch.setattr(consumer, "_FaustApp", made)
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
