"""The cases that break naive designs, on the real Kafka and Postgres."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from choreo.demo.client import Customer
from choreo.embedded.mail import read_maildir
from tests.brokers import Broker
from tests.choreography.ending import caught_up, end_offsets, introduce, settled, stranger
from tests.services import SERVICES, TOPICS
from tests.shop import Shop, eventually

RACES = 200
AT_ONCE = 10


def assert_money_is_conserved(shop: Shop) -> None:
    assert shop.rows("billing", "SELECT coalesce(sum(amount), 0) FROM ledger") == [(0,)]
    wrong = shop.rows(
        "billing",
        "SELECT user_id, balance, (SELECT coalesce(sum(amount), 0) FROM ledger"
        " WHERE ledger.user_id = accounts.user_id AND side = 'customer') AS moved FROM accounts",
    )
    assert [row for row in wrong if row[1] != row[2]] == []


async def test_an_order_for_exactly_the_balance_is_confirmed(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    order = await ada.order("400.00", wait=30)
    assert order.json()["status"] == "confirmed"
    assert (await ada.account()).json()["balance"] == "0.00"
    assert_money_is_conserved(shop)


async def test_of_two_orders_at_once_on_money_for_one_exactly_one_is_confirmed(shop: Shop) -> None:
    """Two hundred times, on one shop, ten races at a time."""
    customers = [await shop.customer("400.00") for _ in range(AT_ONCE)]

    async def race(ada: Customer) -> None:
        answers = await asyncio.gather(ada.order("300.00", wait=30), ada.order("300.00", wait=30))
        assert sorted(answer.json()["status"] for answer in answers) == ["confirmed", "rejected"]
        assert (await ada.account()).json()["balance"] == "100.00"
        (await ada.deposit("300.00")).raise_for_status()

    for _ in range(RACES // AT_ONCE):
        await asyncio.gather(*map(race, customers))
    assert_money_is_conserved(shop)


async def test_an_order_that_reaches_billing_before_its_account_waits_and_is_decided(shop: Shop) -> None:
    """The order service takes a token of a user whose registration nobody has heard of yet."""
    ada = stranger(shop)
    order = (await ada.order("100.00")).json()
    await shop.until(
        "billing",
        ada,
        lambda: asyncio.to_thread(shop.rows, "billing", "SELECT outcome FROM payments"),
        lambda rows: rows == [("waiting",)],
    )
    assert (await ada.account()).status_code == 404
    assert (await ada.get("order", f"/orders/{order['id']}")).json()["status"] == "created"

    await introduce(shop, ada)
    decided = await ada.get("order", f"/orders/{order['id']}", wait=20)
    assert (decided.json()["status"], decided.json()["reason"]) == ("rejected", "insufficient_funds")
    assert [told["kind"] for told in await shop.notified(ada, 1)] == ["order_rejected"]
    assert (await ada.account()).json()["balance"] == "0.00"
    await settled(shop)
    assert len(read_maildir(shop.maildir)) == 1


async def test_every_topic_delivered_again_changes_nothing(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    for price in ("100.00", "500.00", "300.00"):
        await ada.order(price, wait=30)
    await shop.notified(ada, 3)
    await settled(shop)
    assert len(read_maildir(shop.maildir)) == 3
    before = {service: _everything(shop, service) for service in SERVICES}

    again = await _publish_again(shop)
    await caught_up(shop)
    assert again > 0
    assert {service: _everything(shop, service) for service in SERVICES} == before
    assert sum((await end_offsets(shop)).values()) == 2 * again, "nothing new was decided"
    assert len(read_maildir(shop.maildir)) == 3
    assert_money_is_conserved(shop)


async def test_an_order_placed_while_kafka_is_down_is_taken_and_decided_once_it_is_back(
    shop: Shop, kafka: Broker
) -> None:
    ada = await shop.customer("400.00")
    kafka.kill()
    try:
        order = await ada.order("100.00")
        assert (order.status_code, order.json()["status"]) == (202, "created")
        broken = await eventually(
            lambda: shop.clients["order"].get("/health/ready"), lambda answer: answer.status_code == 503
        )
        assert broken.json()["jobs"]["broker"]["ready"] is False
    finally:
        kafka.start()
        await asyncio.to_thread(kafka.wait_ready)
    decided = await ada.get("order", order.headers["Location"], wait=30)
    assert decided.json()["status"] == "confirmed"
    assert [told["kind"] for told in await shop.notified(ada, 1)] == ["order_confirmed"]
    for service in SERVICES:
        await shop.ready(service)
    assert_money_is_conserved(shop)


async def test_a_record_that_is_no_event_is_parked_and_the_rest_goes_on(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    topic = shop.settings.topic_prefix + TOPICS["order"]
    async with AIOKafkaProducer(**shop.kafka.admin.aiokafka()) as producer:
        await producer.send_and_wait(topic, b"\xff not json", key=b"nobody")
        await producer.send_and_wait(topic, b"{}", key=None, partition=1)
    assert (await ada.order("100.00", wait=30)).json()["status"] == "confirmed"
    await caught_up(shop)
    parked = shop.rows("billing", "SELECT reason, error FROM parked ORDER BY position")
    assert parked == [("undecodable", "the header ce_type is missing")] * 2


async def _publish_again(shop: Shop) -> int:
    """Appends every record of every topic once more, byte for byte, in order. Gives their number."""
    access = shop.kafka.admin.aiokafka()
    ends = await end_offsets(shop)
    async with (
        AIOKafkaConsumer(**access) as reader,
        AIOKafkaProducer(**access) as writer,
    ):
        reader.assign(list(ends))
        await reader.seek_to_beginning()
        for place, end in ends.items():
            while await reader.position(place) < end:
                record = await reader.getone(place)
                if record.offset < end:
                    await writer.send_and_wait(
                        place.topic, record.value, record.key, place.partition, headers=list(record.headers)
                    )
    return sum(ends.values())


def _everything(shop: Shop, service: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but those that say how far was read and what is on its way."""
    tables = shop.rows(service, "SELECT relname FROM pg_stat_user_tables")
    skipped = {"positions", "outbox", "relay_leases", "leases", "alembic_version"}
    names = sorted(name for (name,) in tables if name not in skipped)
    return {name: sorted(shop.rows(service, f"SELECT * FROM {name}"), key=repr) for name in names}
