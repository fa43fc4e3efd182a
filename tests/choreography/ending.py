"""How a story ends on the real Kafka and Postgres: nothing is on its way, and what is to be seen then."""

import asyncio
import time
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from choreo.chassis.http.auth import sign
from choreo.demo.client import Customer
from choreo.message.codec import Record, decode, encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from events.user import UserRegistered
from tests.component.alone import an_event
from tests.law import Ending, Leg
from tests.services import SERVICES, TOPICS
from tests.shop import PARTITIONS, Shop, eventually

_UNFINISHED = {
    "order": "SELECT 1 FROM orders WHERE status = 'created' UNION ALL SELECT 1 FROM outbox",
    "billing": "SELECT 1 FROM payments WHERE outcome = 'waiting' UNION ALL SELECT 1 FROM outbox",
    "notification": "SELECT 1 FROM notifications WHERE status = 'pending' UNION ALL SELECT 1 FROM outbox",
}


async def settled(shop: Shop) -> None:
    """Everything is published, heard, decided and mailed."""

    def unfinished() -> bool:
        return any(shop.rows(service, query) for service, query in _UNFINISHED.items())

    async def moving() -> bool:
        """The ends first and last: what was heard may have led to something that was not there."""
        ends = await end_offsets(shop)
        if await asyncio.to_thread(unfinished):
            return True
        query = "SELECT topic, partition, next_offset FROM positions"
        read = [row for name in SERVICES for row in await asyncio.to_thread(shop.rows, name, query)]
        behind = any(offset < ends[TopicPartition(topic, number)] for topic, number, offset in read)
        return behind or ends != await end_offsets(shop)

    await eventually(moving, lambda moves: not moves)


async def ending(shop: Shop) -> Ending:
    """Of everybody."""
    told = shop.rows("notification", "SELECT order_id, kind FROM notifications")
    legs = shop.rows("billing", "SELECT user_id, order_id, side, amount FROM ledger")
    return Ending(
        facts=[event.data for event in await published(shop)],
        statuses=dict(shop.rows("order", "SELECT id, status FROM orders")),
        payments=dict(shop.rows("billing", "SELECT order_id, outcome FROM payments")),
        balances=dict(shop.rows("billing", "SELECT user_id, balance FROM accounts")),
        legs=[Leg(*leg) for leg in legs],
        told=[(order_id, kind) for order_id, kind in told],
    )


async def caught_up(shop: Shop) -> None:
    """Every service has read every topic it hears to its end."""
    ends = await end_offsets(shop)

    async def behind() -> list[tuple[object, ...]]:
        query = "SELECT topic, partition, next_offset FROM positions"
        rows = [row for name in SERVICES for row in await asyncio.to_thread(shop.rows, name, query)]
        return [row for row in rows if row[2] < ends[TopicPartition(row[0], row[1])]]

    await eventually(behind, lambda rows: not rows)


async def published(shop: Shop, key: UUID | None = None) -> list[Event[Fact]]:
    """Every event of every topic, or of one key, each once; per topic and key in order."""
    ends = await end_offsets(shop)
    events: dict[UUID, Event[Fact]] = {}
    async with AIOKafkaConsumer(**shop.kafka.admin.aiokafka()) as reader:
        reader.assign(list(ends))
        await reader.seek_to_beginning()
        for place, end in ends.items():
            while await reader.position(place) < end:
                record = await reader.getone(place)
                event = decode(Record(record.key, record.value, list(record.headers)))
                events.setdefault(event.id, event)
    return [event for event in events.values() if key is None or event.key == str(key)]


async def end_offsets(shop: Shop) -> dict[TopicPartition, int]:
    """Of each partition of each topic."""
    topics = [shop.settings.topic_prefix + topic for topic in TOPICS.values()]
    places = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(**shop.kafka.admin.aiokafka()) as reader:
        return dict(await reader.end_offsets(places))


async def sent_out(shop: Shop) -> tuple[object, ...]:
    """What the world has got of it, records and mails: to see that something only looks."""
    return await end_offsets(shop), sorted(shop.maildir.rglob("*"))


def stranger(shop: Shop) -> Customer:
    """Somebody with a token whose registration nobody has heard of yet."""
    ((private_jwk,),) = shop.rows("user", "SELECT private_jwk FROM private_keys")
    id = uuid4()
    return Customer(shop.clients, id, f"ada-{id.hex[:8]}", sign(private_jwk, id, now=time.time()))


async def introduce(shop: Shop, *strangers: Customer) -> None:
    """Their registrations are published."""
    topic = shop.settings.topic_prefix + TOPICS["user"]
    async with AIOKafkaProducer(**shop.kafka.admin.aiokafka()) as producer:
        for who in strangers:
            fact = UserRegistered(user_id=who.id, login=who.login, email=f"{who.login}@example.com")
            record = encode(an_event(fact))
            await producer.send_and_wait(topic, record.value, record.key, headers=record.headers)
