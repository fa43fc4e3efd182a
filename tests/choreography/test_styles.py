"""What a part that is away, silent or killed does to an order, in the styles in which services are called."""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from choreo.demo.client import Customer
from choreo.embedded.mail import read_maildir
from choreo.embedded.ports import free_ports
from choreo.styles.composition import COMPOSITIONS
from choreo.styles.http import callee, calls
from choreo.styles.http.callee import Callee, CalleeAway
from tests.choreography.test_money import assert_money_is_conserved
from tests.services import SERVICES
from tests.shop import Shop, eventually
from tests.styles import Wires, wire

AT_ONCE, ROUNDS = 5, 4


@dataclass
class Wired:
    shop: Shop
    style: str
    wires: dict[str, Wires]

    async def decided(self, ada: Customer, order: dict[str, Any]) -> dict[str, Any]:
        answer = await eventually(
            lambda: ada.get("order", f"/orders/{order['id']}"), lambda it: it.json()["status"] != "created"
        )
        return dict(answer.json())

    async def assert_once(self, ada: Customer, order: dict[str, Any]) -> None:
        """It was paid once, told once, and nothing of it is left to be told anybody."""
        (told,) = await self.shop.notified(ada, 1)
        assert (told["kind"], told["order_id"]) == ("order_confirmed", order["id"])
        entries = (await ada.get("billing", "/account/entries")).json()["items"]
        assert [entry["kind"] for entry in entries] == ["payment", "deposit"]
        for name in SERVICES:
            await eventually(partial(self.untold, name), lambda left: left == 0)

    async def untold(self, service: str) -> int:
        ((count,),) = await asyncio.to_thread(self.shop.rows, service, "SELECT count(*) FROM outbox")
        return int(count)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callee, "CALL_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(callee, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(calls, "_SWEEP_SECONDS", 0.1)


@pytest.fixture(params=COMPOSITIONS)
async def wired(closed_shop: Shop, request: pytest.FixtureRequest) -> Wired:
    """All services run."""
    wires = wire(closed_shop, request.param)
    await closed_shop.start(*SERVICES)
    return Wired(closed_shop, request.param, wires)


async def test_an_order_is_decided_and_told_before_it_is_answered(wired: Wired) -> None:
    ada = await wired.shop.customer("400.00")
    answer = await ada.order("100.00")
    assert (answer.status_code, answer.json()["status"]) == (202, "created")
    orders = await ada.orders()
    assert [order["status"] for order in orders] == ["confirmed"]
    if wired.style == "http":
        assert len(await ada.notifications()) == 1
    await wired.assert_once(ada, orders[0])


async def test_of_two_orders_at_once_on_money_for_one_exactly_one_is_confirmed(wired: Wired) -> None:
    """As in collaboration, where it is tried two hundred times."""
    customers = [await wired.shop.customer("400.00") for _ in range(AT_ONCE)]

    async def race(ada: Customer) -> None:
        answers = await asyncio.gather(ada.order("300.00", wait=30), ada.order("300.00", wait=30))
        assert sorted(answer.json()["status"] for answer in answers) == ["confirmed", "rejected"]
        assert (await ada.account()).json()["balance"] == "100.00"
        (await ada.deposit("300.00")).raise_for_status()

    for _ in range(ROUNDS):
        await asyncio.gather(*map(race, customers))
    assert_money_is_conserved(wired.shop)


async def test_an_order_for_exactly_the_balance_sent_twice_at_once_is_paid_once(wired: Wired) -> None:
    ada = await wired.shop.customer("400.00")
    answers = await asyncio.gather(*(ada.order("400.00", wait=30, key="the same") for _ in range(2)))
    assert [answer.json()["status"] for answer in answers] == ["confirmed", "confirmed"]
    assert (await ada.account()).json()["balance"] == "0.00"
    await wired.assert_once(ada, answers[0].json())


async def test_with_billing_away_an_order_waits_and_is_paid_once_when_it_is_back(wired: Wired) -> None:
    ada = await wired.shop.customer("400.00")
    wired.wires["billing"].refuses = True
    answer = await ada.order("100.00", wait=1)
    assert (answer.status_code, answer.json()["status"]) == (202, "created")
    ready = await wired.shop.clients["order"].get("/health/ready")
    assert (ready.status_code, "billing cannot be called" in ready.text) == (503, True)
    wired.wires["billing"].refuses = False
    assert (await wired.decided(ada, answer.json()))["status"] == "confirmed"
    await wired.assert_once(ada, answer.json())


async def test_a_callee_that_takes_it_and_never_answers_is_paid_once(wired: Wired) -> None:
    ada = await wired.shop.customer("400.00")
    wired.wires["billing"].is_silent = True
    answer = await ada.order("100.00", wait=1)
    assert (answer.status_code, answer.json()["status"]) == (202, "created")
    assert (await ada.account()).json()["balance"] == "300.00", "it was taken all the same"
    wired.wires["billing"].is_silent = False
    assert (await wired.decided(ada, answer.json()))["status"] == "confirmed"
    await wired.assert_once(ada, answer.json())


async def test_with_notification_away_orders_go_on_and_mails_wait(wired: Wired) -> None:
    ada = await wired.shop.customer("400.00")
    await wired.shop.stop("notification")
    first, second = await ada.order("100.00", wait=30), await ada.order("500.00", wait=10)
    assert [first.json()["status"], second.json()["status"]] == ["confirmed", "rejected"]
    waiting = await wired.untold("order")
    assert waiting == (2 if wired.style == "http" else 0), "in Kafka they wait, or in the order service"
    await wired.shop.start("notification")
    ada = replace(ada, services=wired.shop.clients)
    told = await wired.shop.notified(ada, 2)
    assert [one["kind"] for one in told] == ["order_rejected", "order_confirmed"]
    await eventually(lambda: wired.untold("order"), lambda left: left == 0)


async def test_a_caller_that_is_killed_between_two_calls_finishes_after_its_restart(wired: Wired) -> None:
    """In style http between billing and notification; else between billing and its own word of the answer."""
    ada = await wired.shop.customer("400.00")
    last = wired.wires["notification" if wired.style == "http" else "billing"]
    last.swallows, last.is_silent = wired.style == "http", wired.style != "http"
    last.reached.clear()
    ordering = asyncio.ensure_future(ada.order("100.00"))
    await last.reached.wait()
    await eventually(ada.account, lambda answer: answer.json()["balance"] == "300.00")
    ordering.cancel()
    await wired.shop.stop("order")
    if wired.style == "http":
        assert await ada.notifications() == []
    last.swallows = last.is_silent = False
    await wired.shop.start("order")
    ada = replace(ada, services=wired.shop.clients)
    (order,) = await ada.orders()
    assert (await wired.decided(ada, order))["status"] == "confirmed"
    await wired.assert_once(ada, order)
    mails = await eventually(
        lambda: asyncio.to_thread(lambda: list(read_maildir(wired.shop.maildir))), lambda found: bool(found)
    )
    assert len(mails) == 1


async def test_an_answer_that_billing_could_not_be_told_to_forget_is_recognised_later(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order service is killed when its own row is gone and billing still keeps its answer."""

    async def lost(self: object, ids: object) -> None:
        raise CalleeAway("it was killed before")

    with monkeypatch.context() as patched:
        patched.setattr(Callee, "settle", lost)
        ada = await wired.shop.customer("400.00")
        order = (await ada.order("100.00", wait=30)).json()
        await eventually(partial(wired.untold, "order"), lambda left: left == 0)
        assert await wired.untold("billing") == 1
        await wired.shop.stop("order")
    await wired.shop.start("order")
    await wired.assert_once(replace(ada, services=wired.shop.clients), order)


async def test_an_order_that_reaches_billing_before_its_account_is_decided_when_that_comes(
    wired: Wired,
) -> None:
    """No call of its own brings the decision: the order service asks what billing has for it."""
    wired.wires["billing"].refuses = True
    ada = await Customer.register(wired.shop.clients)
    await wired.shop.stop("user")
    wired.wires["billing"].refuses = False
    order = (await ada.order("100.00")).json()
    waiting = partial(asyncio.to_thread, wired.shop.rows, "billing", "SELECT outcome FROM payments")
    await eventually(waiting, lambda rows: rows == [("waiting",)])
    await wired.shop.start("user")
    assert (await wired.decided(ada, order))["status"] == "rejected"


async def test_with_billing_away_a_registration_is_taken_and_the_account_comes_by_itself(
    wired: Wired,
) -> None:
    wired.wires["billing"].refuses = True
    ada = await Customer.register(wired.shop.clients)
    assert (await ada.account()).status_code == 404
    order = (await ada.order("100.00")).json()
    wired.wires["billing"].refuses = False
    await wired.shop.account_of(ada)
    assert (await wired.decided(ada, order))["status"] == "rejected"


async def test_what_nobody_decided_in_time_expires_though_billing_is_away_and_no_money_is_lost(
    closed_shop: Shop,
) -> None:
    wires = wire(closed_shop, "http")
    closed_shop.settings = closed_shop.settings.model_copy(update={"own": {"order": {"decide_within": 1.0}}})
    await closed_shop.start(*SERVICES)
    wired = Wired(closed_shop, "http", wires)
    ada = await closed_shop.customer("400.00")
    wires["billing"].is_silent = True
    order = (await ada.order("100.00")).json()
    over = await wired.decided(ada, order)
    assert (over["status"], over["reason"]) == ("cancelled", "expired")
    wires["billing"].is_silent = False
    await eventually(
        lambda: ada.get("order", f"/orders/{order['id']}"), lambda it: it.json()["status"] == "refunded"
    )
    assert (await ada.account()).json()["balance"] == "400.00"
    for name in SERVICES:
        await eventually(partial(wired.untold, name), lambda left: left == 0)


async def test_with_kafka_away_orders_are_decided_and_only_the_news_waits(closed_shop: Shop) -> None:
    wires = wire(closed_shop, "notifications")
    there = closed_shop.settings
    (nowhere,) = free_ports(1)
    closed_shop.settings = there.model_copy(update={"kafka_bootstrap_servers": f"127.0.0.1:{nowhere}"})
    await closed_shop.begin(*SERVICES)
    wired = Wired(closed_shop, "notifications", wires)
    ada = await eventually(lambda: _registered(closed_shop), lambda it: it is not None)
    assert ada is not None
    await closed_shop.account_of(ada)
    (await ada.deposit("400.00")).raise_for_status()
    answer = await ada.order("100.00", wait=30)
    assert (answer.status_code, answer.json()["status"]) == (201, "confirmed")
    await closed_shop.stop()
    closed_shop.settings = there
    await closed_shop.start(*SERVICES)
    await wired.assert_once(replace(ada, services=closed_shop.clients), answer.json())


async def _registered(shop: Shop) -> Customer | None:
    """None while there is no key to sign with."""
    try:
        return await Customer.register(shop.clients)
    except httpx2.HTTPStatusError:
        return None


@pytest.mark.parametrize("style", COMPOSITIONS)
async def test_nobody_without_a_credential_tells_a_service_anything(closed_shop: Shop, style: str) -> None:
    wire(closed_shop, style)
    await closed_shop.start("billing")
    billing = closed_shop.clients["billing"]
    for headers in ({}, {"Authorization": "Bearer none"}, {"Authorization": "Bearer credential of billing"}):
        for path, body in (
            (callee.FACTS_PATH, {"key": str(uuid4()), "facts": [], "after": None}),
            (callee.SETTLED_PATH, {"ids": []}),
        ):
            answer = await billing.post(path, json=body, headers=headers)
            assert answer.status_code == 401
    assert "/internal" not in (await billing.get("/openapi.json")).text
