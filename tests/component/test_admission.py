"""No more orders are taken than can be decided in time: the order service alone, its clock turned by hand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import sqlalchemy.event
from sqlalchemy.pool import QueuePool

from choreo.chassis.observe.health import Job
from choreo.chassis.transaction import kernel
from choreo.demo.client import Customer, Json
from choreo.embedded.postgres import Postgres
from order_service import admission, app
from order_service.admission import PROBE, Admission
from tests.component.alone import Alone, alone, assert_problem
from tests.component.test_expiry import Hands
from tests.component.test_order import paid
from tests.locks import held
from tests.shop import eventually

DEADLINE = timedelta(seconds=30)
FEW = 9
LATE = DEADLINE / 10 + timedelta(seconds=1)


class Door(Admission):
    """Looks when it is told to, and at the test's clock."""

    hands: Hands

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def later(self, time: timedelta) -> None:
        self.hands.ahead += time
        await self.look()


@pytest_asyncio.fixture
async def opened() -> list[Door]:
    return []


@pytest_asyncio.fixture
async def door(opened: list[Door], shop: Alone) -> Door:
    (found,) = opened
    return found


@pytest_asyncio.fixture
async def shop(
    opened: list[Door], postgres: Postgres, templates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Alone]:
    def build(engine: Any, clock: object, *rest: Any) -> Door:
        hands = Hands()
        door = Door(engine, hands, *rest)
        door.hands = hands
        opened.append(door)
        return door

    monkeypatch.setattr(app, "Admission", build)
    async with alone("order", postgres, templates) as service:
        yield service


async def published(shop: Alone) -> None:
    """Kafka took everything."""
    async with shop.runtime.engine.begin() as conn:
        await conn.exec_driver_sql("DELETE FROM outbox")


async def orders(customer: Customer, count: int) -> list[Json]:
    answers = [await customer.order("1") for _ in range(count)]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json() for answer in answers]


async def test_while_orders_stay_undecided_for_long_no_more_are_taken(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    placed = await orders(ada, FEW)
    first = await ada.order("1", key="the last one in")
    await published(shop)
    await door.later(LATE)
    answer = await ada.order("1")
    assert_problem(answer, 503, "overloaded")
    assert int(answer.headers["Retry-After"]) > 0
    again = await ada.order("1", key="the last one in")
    assert (again.status_code, again.content) == (202, first.content), "it was accepted"
    assert_problem(await ada.order("2", key="the last one in"), 422, "idempotency_key_reused")
    assert len(await ada.orders()) == FEW + 1
    assert (await ada.cancel(placed[0]["id"])).status_code == 202, "only new orders are too many"
    await shop.hear(*map(paid, placed[1:]), paid(first.json()))
    await door.look()
    assert (await ada.order("1")).status_code == 202


async def test_an_age_grows_between_two_looks(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    await orders(ada, FEW + 1)
    await published(shop)
    await door.look()
    assert (await ada.order("1")).status_code == 202
    door.hands.ahead += LATE
    assert_problem(await ada.order("1"), 503, "overloaded")


async def test_a_few_orders_that_wait_do_not_shut_the_shop(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    await orders(ada, FEW)
    await published(shop)
    await door.later(LATE)
    assert (await (await shop.customer()).order("1")).status_code == 202


async def test_orders_that_were_overtaken_do_not_shut_the_shop(shop: Alone, door: Door) -> None:
    """Their user is parked, say; others' orders are decided."""
    ada, eve = await shop.customer(), await shop.customer()
    await orders(ada, 2 * FEW)
    (decided,) = await orders(eve, 1)
    await shop.hear(paid(decided))
    await published(shop)
    await door.later(LATE)
    assert (await eve.order("1")).status_code == 202


async def test_orders_of_a_parked_customer_do_not_shut_the_shop(shop: Alone, door: Door) -> None:
    """As many as there may be, for as long as it takes: nobody can decide them but a person."""
    ada = await shop.customer()
    (first, *_) = await orders(ada, 2 * FEW)
    reader = await shop._reader(paid(first))
    await reader.put_undecodable(str(ada.id).encode())
    await published(shop)
    await door.later(LATE)
    assert (await (await shop.customer()).order("1")).status_code == 202
    assert (await ada.order("1")).status_code == 202


async def test_a_shut_door_lets_an_order_in_now_and_then(shop: Alone, door: Door) -> None:
    """Ada's events are parked where her orders would be decided. Nobody else is there to overtake her."""
    ada, eve = await shop.customer(), await shop.customer()
    await orders(ada, FEW + 1)
    await published(shop)
    await door.later(LATE)
    assert_problem(await eve.order("1"), 503, "overloaded")
    await door.later(PROBE)
    (probe,) = await orders(eve, 1)
    assert_problem(await eve.order("1"), 503, "overloaded")
    await shop.hear(paid(probe))
    await published(shop)
    await door.look()
    await orders(eve, 2)


async def test_a_partition_that_kafka_does_not_take_turns_away_its_own_users_alone(
    shop: Alone, door: Door
) -> None:
    partition_of = shop.runtime.partition_of
    ada = await shop.customer()
    eve = await shop.customer(
        next(id for id in iter(uuid4, None) if partition_of(str(id)) != partition_of(str(ada.id)))
    )
    await orders(ada, 1)
    await door.later(DEADLINE / 3 + timedelta(seconds=1))
    assert_problem(await ada.order("1"), 503, "overloaded")
    await orders(eve, 1)


async def test_it_says_that_it_cannot_look(shop: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has the table locked. It goes on by itself."""
    monkeypatch.setattr(admission, "LOOK_TIMEOUT_SECONDS", 0.5)
    job = Job()
    door = Admission(shop.runtime.engine, Hands(), DEADLINE, shop.runtime.partition_of, job)

    async def cause() -> str | None:
        return job.state.cause

    async with held(shop.database.owner_url, "LOCK TABLE orders"):
        running = asyncio.ensure_future(door.run())
        await eventually(cause, lambda cause: cause == "cannot look for what is unfinished: TimeoutError")
    await eventually(cause, lambda cause: cause is None)
    running.cancel()
    await asyncio.wait([running])


async def test_a_cancel_by_the_user_is_no_sign_that_orders_are_decided(shop: Alone, door: Door) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    await orders(ada, FEW + 1)
    (changed,) = await orders(eve, 1)
    assert (await eve.cancel(changed["id"])).status_code == 202
    await published(shop)
    await door.later(LATE)
    assert_problem(await eve.order("1"), 503, "overloaded")


async def test_while_kafka_is_away_for_long_no_more_are_taken(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    await orders(ada, 1)
    await door.later(LATE)
    await orders(ada, 1)  # it may be back soon
    await door.later(DEADLINE / 3)
    assert_problem(await ada.order("1"), 503, "overloaded")
    assert len(await ada.orders()) == 2
    await published(shop)
    await door.look()
    await orders(ada, 1)


async def test_those_who_are_turned_away_take_no_connections_from_the_rest(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    await orders(ada, 1)
    await door.later(DEADLINE)
    pool = shop.runtime._kernel_engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    in_use: list[int] = []
    sqlalchemy.event.listen(pool, "checkout", lambda *_: in_use.append(pool.checkedout()))
    for answer in await asyncio.gather(*[ada.order("1") for _ in range(50)]):
        assert_problem(answer, 503, "overloaded")
    assert max(in_use) < pool.size(), "the kernel finds one free"


async def test_what_is_wrong_with_an_order_is_said_first(shop: Alone, door: Door) -> None:
    ada = await shop.customer()
    await orders(ada, 1)
    await door.later(DEADLINE)
    assert_problem(await ada.order("-1"), 422, "invalid_request")
    stranger = Customer(ada.services, uuid4(), "eve", "no token")
    assert_problem(await stranger.order("1"), 401, "unauthorized")


async def test_with_too_many_queued_only_repeats_are_answered(
    shop: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await shop.customer()
    first = await ada.order("1", key="once")
    monkeypatch.setattr(kernel, "QUEUE_HARD_LIMIT", 0)
    assert_problem(await ada.order("1"), 503, "overloaded")
    assert_problem(await ada.cancel(first.json()["id"]), 503, "overloaded")
    assert (await ada.order("1", key="once")).content == first.content
    assert len(await ada.orders()) == 1


async def test_who_asks_too_much_at_once_turns_nobody_else_away(
    shop: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, ada = await shop.customer(), await shop.customer()
    for customer in (mallory, ada):
        await customer.orders()  # whose tokens are known from now on
    monkeypatch.setattr(kernel, "KEY_LIMIT", 3)
    *answers, hers = await asyncio.gather(*[mallory.order("1") for _ in range(5)], ada.order("1"))
    assert (Counter(answer.status_code for answer in answers), hers.status_code) == ({202: 3, 503: 2}, 202)
    assert {answer.json()["type"] for answer in answers if answer.status_code == 503} == {
        "urn:choreo:problem:overloaded"
    }
    assert (await mallory.order("1")).status_code == 202
    assert not shop.runtime.kernel._asking
