"""What cannot be handled is parked with its key. Everybody else goes on; after the fix the key does, too."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.cli.running.dlq import Desk, Outcome
from choreo.demo.client import Customer
from choreo.message.codec import Headers, Record, encode
from choreo.message.envelope import Event
from events.order import OrderCreated
from tests.choreography.ending import caught_up
from tests.choreography.test_money import assert_money_is_conserved
from tests.component.alone import NEVER, an_event
from tests.services import TOPICS
from tests.shop import Shop


def an_order(user: UUID) -> Record:
    return encode(
        an_event(OrderCreated(order_id=uuid4(), user_id=user, price=1, description=None, decide_by=NEVER))
    )


def with_header(record: Record, name: str, value: bytes | None) -> Record:
    headers: Headers = [(other, value if other == name else told) for other, told in record.headers]
    return Record(record.key, record.value, headers)


def with_value(record: Record, old: bytes, new: bytes) -> Record:
    return Record(record.key, (record.value or b"").replace(old, new), record.headers)


def without_header(record: Record, name: str) -> Record:
    return Record(record.key, record.value, [pair for pair in record.headers if pair[0] != name])


BAD: dict[str, tuple[Callable[[UUID], Record], str]] = {
    "bytes that are no JSON": (
        lambda user: Record(str(user).encode(), b"\xff\x00", an_order(user).headers),
        "the data of this OrderCreated is wrong",
    ),
    "no headers": (
        lambda user: Record(str(user).encode(), b"{}", []),
        "the header ce_type is missing",
    ),
    "a header missing": (
        lambda user: without_header(an_order(user), "ce_time"),
        "the header ce_time is missing",
    ),
    "a header without a value": (
        lambda user: with_header(an_order(user), "ce_time", None),
        "the header ce_time has no value",
    ),
    "another key than its payload's": (
        lambda user: Record(str(user).encode(), an_order(uuid4()).value, an_order(user).headers),
        "is not the user_id of its data",
    ),
    "a version from the future": (
        lambda user: with_header(an_order(user), "ce_dataschema", b"urn:choreo:OrderCreated:2"),
        "OrderCreated is of version 2, and this program knows up to 1",
    ),
    "no value": (
        lambda user: Record(str(user).encode(), None, an_order(user).headers),
        "the data of this OrderCreated is wrong",
    ),
    "a negative amount": (
        lambda user: with_value(an_order(user), b'"price":1', b'"price":-1'),
        "the data of this OrderCreated is wrong at price",
    ),
    "1 MiB of text": (
        lambda user: Record(str(user).encode(), b"x" * ((1 << 20) - 1000), an_order(user).headers),
        "the data of this OrderCreated is wrong",
    ),
}


async def test_bad_records_park_their_key_and_nobody_elses(shop: Shop) -> None:
    """One customer per kind of bad record: their next orders queue; another customer notices nothing."""
    unlucky = {kind: await shop.customer("10.00") for kind in BAD}
    async with producing(shop) as send:
        for kind, (make, _) in BAD.items():
            await send(make(unlucky[kind].id))
    for customer in unlucky.values():
        assert (await customer.order("5.00")).status_code == 202
    ada = await shop.customer("400.00")
    assert (await ada.order("100.00", wait=30)).json()["status"] == "confirmed"
    await caught_up(shop)
    for kind, (_, why) in BAD.items():
        query = "SELECT reason, error FROM parked WHERE key = %s ORDER BY position"
        (bad, good) = shop.rows("billing", query, str(unlucky[kind].id))
        assert bad[0] == "undecodable" and why in bad[1], kind
        assert good[0] == "queued", kind
        assert (await unlucky[kind].account()).json()["balance"] == "10.00", kind
    assert shop.rows("billing", "SELECT count(*) FROM parked") == [(2 * len(BAD),)]
    assert_money_is_conserved(shop)


async def test_after_dropping_them_the_queues_go_on(shop: Shop) -> None:
    ada = await shop.customer("10.00")
    async with producing(shop) as send:
        await send(Record(str(ada.id).encode(), b"{}", []))
    first, second = (await ada.order("6.00")).json(), (await ada.order("5.00")).json()
    await caught_up(shop)
    async with a_desk(shop) as desk:
        (group,) = await desk.groups(None)
        await desk.drop(group.id, dry_run=False)
        (outcome,) = await desk.retry(None, dry_run=False)
    assert [one.decided for one in outcome.handled] == [("PaymentConfirmed",), ("PaymentRejected",)]
    assert await decided(shop, ada, first["id"]) == "confirmed"
    assert await decided(shop, ada, second["id"]) == "rejected"
    assert_money_is_conserved(shop)


async def test_a_bug_that_meets_one_customer_parks_only_them_and_the_fix_continues_in_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Billing is deployed with a bug, and then without. Orders of 6, 5 and 4 on a balance of 10."""
    ada, eve = await shop.customer("10.00"), await shop.customer("10.00")

    def buggy(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(ada.id):
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    await shop.stop("billing")
    monkeypatch.setattr(billing_service, "evolve", buggy)
    await shop.start("billing")
    orders = [(await ada.order(price)).json()["id"] for price in ("6.00", "5.00", "4.00")]
    assert (await eve.order("10.00", wait=30)).json()["status"] == "confirmed"
    await caught_up(shop)
    assert shop.rows("billing", "SELECT DISTINCT key FROM parked") == [(str(ada.id),)]

    await shop.stop("billing")
    monkeypatch.setattr(billing_service, "evolve", evolve)
    await shop.start("billing")
    last = (await ada.order("1.00")).json()["id"]  # the key still waits for a person
    await caught_up(shop)
    outcomes = await retried(shop)
    assert [one.decided for outcome in outcomes for one in outcome.handled] == [
        ("PaymentConfirmed",),
        ("PaymentRejected",),
        ("PaymentConfirmed",),
        ("PaymentRejected",),
    ]
    statuses = [await decided(shop, ada, order) for order in (*orders, last)]
    assert statuses == ["confirmed", "rejected", "confirmed", "rejected"]
    assert (await ada.account()).json()["balance"] == "0.00"
    assert len(await shop.notified(ada, 4)) == 4
    assert_money_is_conserved(shop)


async def decided(shop: Shop, customer: Customer, order: str) -> str:
    answer = await customer.get("order", f"/orders/{order}", wait=20)
    return str(answer.json()["status"])


async def retried(shop: Shop) -> list[Outcome]:
    async with a_desk(shop) as desk:
        return await desk.retry(None, dry_run=False)


@asynccontextmanager
async def a_desk(shop: Shop) -> AsyncIterator[Desk]:
    """Where an operator works on parked events."""
    async with shop.installation.engines() as engines:
        yield Desk(shop.installation, engines)


@asynccontextmanager
async def producing(shop: Shop) -> AsyncIterator[Callable[[Record], Awaitable[None]]]:
    """Sends to the order service's topic, where Kafka's own partitioner puts it."""
    topic = shop.settings.topic_prefix + TOPICS["order"]
    async with AIOKafkaProducer(**shop.kafka.admin.aiokafka(), max_request_size=2 << 20) as producer:

        async def send(record: Record) -> None:
            await producer.send_and_wait(topic, record.value, record.key, headers=record.headers)

        yield send
