"""Who waits over HTTP is woken by the commit, whichever process commits, and costs nothing meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import make_engine, raw_connection
from choreo.chassis.http import auth
from choreo.chassis.http.pages import PageRequest
from choreo.chassis.http.signing_keys import HeardKeys
from choreo.chassis.transaction import parked
from choreo.chassis.transaction.retry import drop, retry
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.transaction.transaction import Transaction
from choreo.chassis.waiting.commit_notifications import CommitNotifications
from choreo.chassis.waiting.turns import AT_ONCE
from choreo.demo.client import Customer, Json
from choreo.embedded.postgres import Postgres
from order_service import queries, service
from tests.component.alone import Alone, a_process, alone, an_event, assert_problem
from tests.component.test_order import paid
from tests.shop import PATIENCE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = 30
"""Longer than a test may take: who has to wait so long was not woken."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("order", postgres, templates) as service:
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(shop: Alone) -> AsyncIterator[Alone]:
    """Another process of the same service. The two have heard of each other."""
    heard: list[str] = []
    hear = CommitNotifications._hear

    def noticed(notifications: CommitNotifications, message: str) -> None:
        if not message.startswith(notifications._name):
            heard.append(message.partition(" ")[2])
        hear(notifications, message)

    await eventually(lambda: listening(shop), lambda sessions: len(sessions) == 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommitNotifications, "_hear", noticed)
        async with a_process("order", shop.database) as service:

            async def heard_so_far() -> list[str]:
                return heard

            await eventually(heard_so_far, lambda found: found == ["hello", "here", "here"])
            yield service


class Looks:
    """How often each order was looked at."""

    def __init__(self) -> None:
        self.counts: Counter[UUID] = Counter()
        self._look = queries.order_of

    async def __call__(self, engine: AsyncEngine, user_id: UUID, order_id: UUID) -> Row[Any] | None:
        self.counts[order_id] += 1
        return await self._look(engine, user_id, order_id)

    def of(self, waits: "Waiting") -> int:
        return self.counts[UUID(waits.order["id"])]

    async def begun(self, *waits: "Waiting") -> None:
        """Returns once all of these have looked, and so are registered."""

        async def least() -> int:
            return min(map(self.of, waits))

        await eventually(least, bool)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    found = Looks()
    monkeypatch.setattr(queries, "order_of", found)
    return found


@dataclass(frozen=True)
class Waiting:
    """A customer with an undecided order."""

    customer: Customer
    order: Json
    answer: "asyncio.Task[httpx2.Response]"

    async def status(self) -> str:
        """As it was answered, long before the wait was over."""
        async with asyncio.timeout(PATIENCE):
            return str((await self.answer).json()["status"])


async def waiting(shop: Alone, there: Alone | None = None) -> Waiting:
    """Somebody ordered in the one process, and waits in the other."""
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    path, elsewhere = f"/orders/{order['id']}", at(there or shop, ada)
    return Waiting(ada, order, asyncio.ensure_future(elsewhere.get("order", path, wait=LONG)))


async def listening(shop: Alone, what: str = "pid") -> list[Any]:
    """Of every session that listens, as the service's own role sees them."""
    query = f"""SELECT {what} FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'commit_notifications'"""
    async with await psycopg.AsyncConnection.connect(shop.database.runtime_url) as conn:
        return await (await conn.execute(query.encode())).fetchall()


def at(process: Alone, customer: Customer) -> Customer:
    """The same customer, asking this process."""
    return replace(customer, services={"order": process.http})


async def test_what_is_committed_between_look_and_wait_is_noticed(
    shop: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, unheard = queries.order_of, [1]

    async def slow_look(engine: AsyncEngine, user_id: UUID, order_id: UUID) -> Row[Any] | None:
        seen = await look(engine, user_id, order_id)
        if unheard:
            unheard.clear()
            await shop.hear(paid({"id": str(order_id), "user_id": str(user_id)}))
        return seen

    monkeypatch.setattr(queries, "order_of", slow_look)
    assert await (await waiting(shop)).status() == "confirmed"


async def test_who_waits_looks_once_and_then_only_when_its_key_is_moved(shop: Alone, looks: Looks) -> None:
    people = [await waiting(shop) for _ in range(100)]
    await looks.begun(*people)
    await (await shop.customer()).order("1")
    first, *others = people
    await shop.hear(paid(first.order))
    assert await first.status() == "confirmed"
    assert (looks.of(first), {looks.of(one) for one in others}) == (2, {1})
    for one in others:
        await shop.hear(paid(one.order))
    assert {await one.status() for one in others} == {"confirmed"}
    assert {looks.of(one) for one in people} == {2}


async def test_a_commit_in_one_process_wakes_who_waits_in_another_and_nobody_else(
    shop: Alone, other: Alone, looks: Looks
) -> None:
    for here, there in ((shop, other), (other, shop), (shop, other)):
        ada, eve = [await waiting(shop, there) for _ in range(2)]
        await looks.begun(ada, eve)
        await cancelled_in(here, await waiting(shop, there))  # what was told before has been heard
        before = looks.of(ada), looks.of(eve)
        await cancelled_in(here, ada)
        assert (looks.of(ada), looks.of(eve)) == (before[0] + 1, before[1])
        await cancelled_in(here, eve)


async def cancelled_in(process: Alone, waits: Waiting) -> None:
    """Returns once who waits was answered so."""
    answer = await at(process, waits.customer).cancel(waits.order["id"])
    assert answer.status_code == 202
    assert await waits.status() == "cancelled"


async def test_who_waits_is_woken_though_the_listening_connection_was_lost(
    shop: Alone, other: Alone, looks: Looks
) -> None:
    ada = await waiting(shop, other)
    await looks.begun(ada)
    ended = await listening(shop, "pg_terminate_backend(pid)")
    assert len(ended) == 2, "both processes listen"
    await shop.hear(paid(ada.order))
    assert await ada.status() == "confirmed"


async def test_a_retry_of_parked_events_by_hand_wakes(shop: Alone, looks: Looks) -> None:
    ada = await waiting(shop)
    await looks.begun(ada)
    await shop.hear(paid({"id": str(uuid4()), "user_id": str(ada.customer.id)}))  # no such order: parked
    await shop.hear(paid(ada.order))
    elsewhere = make_engine(shop.database.runtime_url)
    try:
        async with raw_connection(elsewhere) as conn:
            head, _ = await parked.of_key(conn, str(ada.customer.id))
        await drop(elsewhere, head)
        assert not ada.answer.done()
        described = service.service(shop.runtime.settings)
        transaction = Transaction(
            described.decider,
            partition_of=shop.runtime.partition_of,
            clock=clock.now,
        )
        await retry(transaction, PostgresStore(elsewhere, described.store), described.consumes, head.key)
    finally:
        await elsewhere.dispose()
    assert await ada.status() == "confirmed"


async def test_at_the_end_nobody_waits_any_more(shop: Alone, looks: Looks) -> None:
    async with a_process("order", shop.database) as closing:
        ada = await waiting(shop, closing)
        await looks.begun(ada)
        closing.runtime.kernel.waiters.close()
        assert await ada.status() == "created"
        again = at(closing, ada.customer)
        async with asyncio.timeout(PATIENCE):
            assert (await again.get("order", f"/orders/{ada.order['id']}", wait=LONG)).status_code == 200


async def test_a_flow_is_waited_for_by_any_get(shop: Alone) -> None:
    ada = await shop.customer()
    order = await ada.order("1")
    flow = order.headers["Flow-Id"]
    for path in ("/orders", f"/orders/{order.json()['id']}"):
        answer = await ada.get("order", path, flow=flow, wait=LONG)  # applied here: its own event
        assert (answer.status_code, answer.headers["Flow-Applied"]) == (200, "true")
    heard = an_event(paid(order.json()))
    asking = asyncio.ensure_future(ada.get("order", "/orders", flow=str(heard.correlation_id), wait=LONG))
    await shop.hear_event(heard)
    async with asyncio.timeout(PATIENCE):
        answer = await asking
    assert answer.headers["Flow-Applied"] == "true"
    assert answer.json()["items"][0]["status"] == "confirmed", "what is shown is not older than the flow"


async def test_a_flow_nobody_applied_is_answered_when_the_time_is_up(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    flow = (await ada.order("1")).headers["Flow-Id"]
    for who, asked in ((ada, str(uuid4())), (eve, flow)):  # what is another's is nobody's
        answer = await who.get("order", "/orders", flow=asked)
        assert (answer.status_code, answer.headers["Flow-Applied"]) == (200, "false")
    missing = await eve.get("order", f"/orders/{uuid4()}", flow=flow)
    assert (missing.status_code, missing.headers["Flow-Applied"]) == (404, "false")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [({"flow": "7"}, "flow"), ({"flow": ""}, "flow"), ({"flow": str(uuid4()), "wait": 31}, "wait")],
)
async def test_a_malformed_flow_is_refused(shop: Alone, query: dict[str, Any], parameter: str) -> None:
    problem = assert_problem(
        await (await shop.customer()).get("order", "/orders", **query), 422, "invalid_request"
    )
    assert [error["parameter"] for error in problem["errors"]] == [parameter]


async def test_readers_leave_the_database_to_everybody_else(
    shop: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, ada = await shop.customer(), await shop.customer()
    reading: list[UUID] = []
    go_on = asyncio.Event()

    async def slow(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> list[Any]:
        async with engine.connect():
            reading.append(user_id)
            await go_on.wait()
        return []

    monkeypatch.setattr(queries, "orders_of", slow)
    asked = [asyncio.ensure_future(mallory.orders()) for _ in range(5 * AT_ONCE)]

    async def state() -> tuple[int, bool]:
        return len(reading), str(ada.id) in shop.runtime.kernel.waiters.turns._line._waiting

    await eventually(state, lambda found: found[0] == AT_ONCE)
    assert (await (await shop.customer()).order("1")).status_code == 202
    assert (await shop.http.get("/health/serving")).status_code == 200
    asked.append(asyncio.ensure_future(ada.orders()))
    await eventually(state, lambda found: found[1])
    go_on.set()
    await asyncio.gather(*asked)
    assert ada.id in reading[AT_ONCE : 2 * AT_ONCE], "who came last was not the last"


async def test_made_up_keys_are_looked_for_together(shop: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    async def counted(keys: HeardKeys) -> Any:
        nonlocal looked
        looked += 1
        return await look(keys)

    look = HeardKeys._look
    monkeypatch.setattr(HeardKeys, "_look", counted)
    monkeypatch.setattr(shop.runtime._verifier, "_key_timeout", 0.0)
    ada = await shop.customer()
    made_up = [auth.sign(auth.generate_key(uuid4().hex), ada.id, now=time.time()) for _ in range(40)]
    answers = await asyncio.gather(*[replace(ada, token=token).get("order", "/orders") for token in made_up])
    assert {answer.status_code for answer in answers} == {503}, "Kafka is away: they may be late"
    assert 1 <= looked < 8
    assert (await ada.get("order", "/orders")).status_code == 200
