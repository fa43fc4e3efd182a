"""Cancels and deadlines on the real Kafka and Postgres, whoever is away when they come."""

import asyncio
from datetime import UTC, datetime

import pytest

from choreo.chassis.kafka.catch_up import CatchUp
from choreo.demo.client import Customer
from order_service.expiry import Expiry
from tests.brokers import Broker
from tests.choreography.ending import ending, introduce, published, settled, stranger
from tests.law import breaches
from tests.services import SERVICES
from tests.shop import PATIENCE, Shop, eventually


async def kinds_told(customer: Customer) -> list[str]:
    """Oldest first."""
    return [told["kind"] for told in await customer.notifications()][::-1]


async def types_about(shop: Shop, customer: Customer) -> dict[str, int]:
    """How often each."""
    types = [event.type for event in await published(shop, customer.id)]
    return {type: types.count(type) for type in types}


async def becomes(shop: Shop, customer: Customer, order_id: str, status: str) -> dict[str, str]:
    """The order, once it is this."""

    async def look() -> dict[str, str]:
        return dict((await customer.get("order", f"/orders/{order_id}")).raise_for_status().json())

    return await shop.until("order", customer, look, lambda order: order["status"] == status)


async def assert_lawful(shop: Shop) -> None:
    await settled(shop)
    assert breaches(await ending(shop)) == []


def with_deadline(shop: Shop, seconds: float) -> None:
    """For whatever is started from now on."""
    shop.settings = shop.settings.model_copy(update={"own": {"order": {"decide_within": seconds}}})


async def test_a_paid_order_that_is_cancelled_is_refunded(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    order = (await ada.order("100.00", wait=30)).json()
    assert order["status"] == "confirmed"
    assert (await ada.cancel(order["id"])).status_code == 202
    refunded = await becomes(shop, ada, order["id"], "refunded")
    assert refunded["reason"] == "by_user"
    account = (await ada.account()).json()
    refund, payment, _ = (await ada.get("billing", "/account/entries")).json()["items"]
    assert account["balance"] == refund["balance"] == "400.00"
    assert (refund["kind"], payment["kind"]) == ("refund", "payment")
    assert refund["order_id"] == payment["order_id"] == order["id"]
    assert (await ada.cancel(order["id"])).status_code == 409
    await assert_lawful(shop)
    assert await kinds_told(ada) == ["order_confirmed", "order_refunded"]


async def test_a_rejected_order_cannot_be_cancelled(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    order = (await ada.order("500.00", wait=30)).json()
    refused = await ada.cancel(order["id"])
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:choreo:problem:already_rejected")
    await assert_lawful(shop)
    assert await kinds_told(ada) == ["order_rejected"]
    assert "OrderCancelled" not in await types_about(shop, ada)


async def test_an_order_cancelled_before_its_account_is_there_is_never_paid(shop: Shop) -> None:
    ada = stranger(shop)
    order = (await ada.order("100.00")).json()
    assert (await ada.cancel(order["id"])).json()["status"] == "cancelled"
    (told,) = await shop.notified(ada, 1)
    assert (told["kind"], told["status"]) == ("order_cancelled", "pending")
    await introduce(shop, ada)
    await assert_lawful(shop)
    assert (await ada.orders())[0]["status"] == "cancelled"
    assert (await ada.account()).json()["balance"] == "0.00"
    (told,) = await ada.notifications()
    assert told["status"] == "sent", "once there is an address"


async def test_an_order_cancelled_while_billing_is_away_costs_nothing_once_it_is_back(shop: Shop) -> None:
    ada, eve = await shop.customer("400.00"), await shop.customer("400.00")
    await shop.stop("billing")
    affordable, too_dear = (await ada.order("100.00")).json(), (await eve.order("500.00")).json()
    for who, order in ((ada, affordable), (eve, too_dear)):
        assert (await who.cancel(order["id"])).json()["status"] == "cancelled"
        assert (await who.cancel(order["id"])).status_code == 409
    await shop.start("billing")
    await assert_lawful(shop)
    assert (await ada.orders())[0]["status"] == "refunded"
    assert (await eve.orders())[0]["status"] == "cancelled"
    assert {(await who.account()).json()["balance"] for who in (ada, eve)} == {"400.00"}
    assert await kinds_told(ada) == ["order_confirmed", "order_refunded"]
    assert await kinds_told(eve) == ["order_rejected"]


async def test_a_cancel_is_taken_while_kafka_is_away(shop: Shop, kafka: Broker) -> None:
    ada = await shop.customer("400.00")
    kafka.kill()
    try:
        order = (await ada.order("100.00")).json()
        assert (await ada.cancel(order["id"])).json()["status"] == "cancelled"
    finally:
        kafka.start()
        await asyncio.to_thread(kafka.wait_ready)
    await becomes(shop, ada, order["id"], "refunded")
    for service in SERVICES:
        await shop.ready(service)
    await assert_lawful(shop)
    assert (await ada.account()).json()["balance"] == "400.00"


async def test_an_order_whose_time_is_up_while_billing_is_away_expires_and_is_refunded_if_it_is_paid_then(
    closed_shop: Shop,
) -> None:
    with_deadline(closed_shop, seconds=0.2)
    await closed_shop.start(*SERVICES)
    ada = await closed_shop.customer("400.00")
    await closed_shop.stop("billing")
    order = (await ada.order("100.00")).json()
    expired = await becomes(closed_shop, ada, order["id"], "cancelled")
    assert expired["reason"] == "expired"
    await closed_shop.start("billing")
    assert (await becomes(closed_shop, ada, order["id"], "refunded"))["reason"] == "expired"
    assert (await ada.account()).json()["balance"] == "400.00"
    await assert_lawful(closed_shop)
    assert await kinds_told(ada) == ["order_confirmed", "order_refunded"]
    flows = {event.correlation_id for event in await published(closed_shop, ada.id) if "Order" in event.type}
    assert len(flows) == 1, "an expiry goes on with its order's flow"


async def test_however_late_the_order_service_comes_back_an_order_decided_in_time_does_not_expire(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Billing had decided within the time; the order service was stopped and had not heard of it."""
    shop = closed_shop
    with_deadline(shop, seconds=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Expiry, "round", _nothing_is_due)
        await shop.start(*SERVICES)
        ada = await shop.customer("400.00")
        await shop.stop("billing")
        orders = [(await ada.order(price)).json() for price in ("100.00", "500.00")]
        await eventually(
            lambda: asyncio.to_thread(shop.rows, "order", "SELECT 1 FROM outbox"), lambda rows: not rows
        )
        await shop.stop("order")
    await shop.start("billing")
    await shop.notified(ada, 2)
    decide_by = max(shop.rows("order", "SELECT decide_by FROM orders"))[0]
    assert decide_by < datetime.now(UTC)
    await shop.start("order")
    eve = stranger(shop)
    expires = (await eve.order("1.00")).json()
    await becomes(shop, eve, expires["id"], "cancelled")  # so the timer has been at work
    confirmed, rejected = orders
    assert (await becomes(shop, ada, confirmed["id"], "confirmed"))["reason"] is None
    assert (await becomes(shop, ada, rejected["id"], "rejected"))["reason"] == "insufficient_funds"
    await introduce(shop, eve)
    await assert_lawful(shop)
    assert "OrderCancelled" not in await types_about(shop, ada)


async def _nothing_is_due(expiry: Expiry) -> float:
    return 1.0


async def test_with_the_broker_away_nothing_expires(
    closed_shop: Shop, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()
    read = CatchUp.read

    async def trying(catch_up: CatchUp, seconds: float) -> frozenset[int]:
        try:
            return await read(catch_up, seconds)
        except Exception:
            tried.set()
            raise

    monkeypatch.setattr(CatchUp, "read", trying)
    with_deadline(closed_shop, seconds=0.05)
    await closed_shop.start(*SERVICES)
    ada = await closed_shop.customer("400.00")
    kafka.kill()
    try:
        order = (await ada.order("100.00")).json()
        async with asyncio.timeout(PATIENCE):
            await tried.wait()
        assert (await ada.get("order", f"/orders/{order['id']}")).json()["status"] == "created"
    finally:
        kafka.start()
        await asyncio.to_thread(kafka.wait_ready)
    for service in SERVICES:
        await closed_shop.ready(service)
    await assert_lawful(closed_shop)
    assert (await ada.orders())[0]["status"] in ("confirmed", "refunded"), "whichever came first"
