"""The order service alone: orders are taken, listed, and decided by what is heard."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio

from choreo.chassis import clock
from choreo.chassis.http import pages
from choreo.demo.client import Customer, Json
from choreo.embedded.postgres import Postgres
from choreo.message.sessions import SessionsEnded
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from tests.component.alone import (
    Alone,
    alone,
    assert_closed_to_strangers,
    assert_problem,
    assert_refused_at,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("order", postgres, templates) as service:
        yield service


def paid(order: Json) -> PaymentConfirmed:
    order_id, user_id = UUID(order["id"]), UUID(order["user_id"])
    return PaymentConfirmed(payment_id=uuid4(), order_id=order_id, user_id=user_id, amount=100_00, balance=0)


def refused(order: Json) -> PaymentRejected:
    order_id, user_id = UUID(order["id"]), UUID(order["user_id"])
    return PaymentRejected(
        order_id=order_id, user_id=user_id, amount=100_00, reason="insufficient_funds", balance=1
    )


def refunded(order: Json) -> PaymentRefunded:
    return PaymentRefunded(**paid(order).model_dump())


async def placed(shop: Alone, customer: Customer) -> Json:
    """The customer's only order, as soon as it is written."""
    orders = await shop.runtime.kernel.waiters.until(str(customer.id), 20, customer.orders, bool)
    (order,) = orders
    return order


async def test_strangers_are_sent_away(shop: Alone) -> None:
    await assert_closed_to_strangers(shop)


async def test_who_hears_that_sessions_were_ended_takes_no_token_of_before(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    assert (await ada.get("order", "/orders")).status_code == 200
    ended = clock.now()
    for not_before in (ended, ended - timedelta(hours=1)):  # the latest counts, whichever comes last
        await shop.hear(SessionsEnded(user_id=ada.id, not_before=not_before))
        assert_problem(await ada.get("order", "/orders"), 401, "unauthorized")
    assert (await eve.get("order", "/orders")).status_code == 200
    assert (await (await shop.customer(ada.id)).get("order", "/orders")).status_code == 200
    assert shop.database.rows("SELECT not_before FROM sessions_ended WHERE user_id = %s", ada.id) == [
        (ended,)
    ]


async def test_an_order_is_taken(shop: Alone) -> None:
    ada = await shop.customer()
    answer = await ada.post("order", "/orders", {"price": "100", "description": "a lamp"})
    assert answer.status_code == 202
    order = answer.json()
    assert answer.headers["Location"] == f"/orders/{order['id']}"
    assert order == {
        "id": order["id"],
        "user_id": str(ada.id),
        "price": "100.00",
        "description": "a lamp",
        "status": "created",
        "reason": None,
        "created_at": order["created_at"],
        "updated_at": order["created_at"],
    }
    assert (await ada.get("order", answer.headers["Location"])).json() == order
    ((headers, value),) = shop.database.rows("SELECT headers, value FROM outbox WHERE key = %s", str(ada.id))
    event, fact = dict(orjson.loads(headers)), orjson.loads(value)
    assert (event["ce_type"], event["ce_correlationid"]) == ("OrderCreated", answer.headers["Flow-Id"])
    assert (fact["order_id"], fact["price"]) == (order["id"], 100_00)


async def test_what_is_heard_decides(shop: Alone) -> None:
    ada = await shop.customer()
    first, second = (await ada.order("100")).json(), (await ada.order("100")).json()
    await shop.hear(paid(first), refused(second))
    rejected, confirmed = await ada.orders()
    assert (confirmed["id"], confirmed["status"], confirmed["reason"]) == (first["id"], "confirmed", None)
    assert (rejected["status"], rejected["reason"]) == ("rejected", "insufficient_funds")
    assert confirmed["updated_at"] > confirmed["created_at"] == first["created_at"]


async def test_201_for_an_order_that_is_decided_while_its_client_waits(shop: Alone) -> None:
    ada = await shop.customer()
    waiting = asyncio.ensure_future(ada.order("100", wait=30))
    order = await placed(shop, ada)
    assert not waiting.done()
    await shop.hear(paid(order))
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (201, "confirmed")
    assert answer.headers["Location"] == f"/orders/{order['id']}"
    assert UUID(answer.headers["Flow-Id"])


async def test_a_repeat_waits_anew_and_without_a_wish_it_is_answered_as_at_first(shop: Alone) -> None:
    ada = await shop.customer()
    first = await ada.order("100", key="lamp")
    waiting = asyncio.ensure_future(ada.order("100", key="lamp", wait=30))
    await shop.hear(paid(first.json()))
    later = await waiting
    assert (later.status_code, later.json()["status"]) == (201, "confirmed")
    again = await ada.order("100", key="lamp")
    assert (again.status_code, again.content, again.headers["Flow-Id"]) == (
        202,
        first.content,
        first.headers["Flow-Id"],
    )
    assert len(await ada.orders()) == 1


async def test_reading_waits_for_the_decision(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    waiting = asyncio.ensure_future(ada.get("order", f"/orders/{order['id']}", wait=30))
    await shop.hear(refused(order))
    assert (await waiting).json()["status"] == "rejected"


async def test_one_key_one_order_however_often_at_once(shop: Alone) -> None:
    ada = await shop.customer()
    answers = await asyncio.gather(*(ada.order("100", key="lamp") for _ in range(50)))
    assert len({(answer.status_code, answer.content, answer.headers["Flow-Id"]) for answer in answers}) == 1
    assert len(await ada.orders()) == 1
    assert_problem(await ada.order("200", key="lamp"), 422, "idempotency_key_reused")


async def test_an_order_is_cancelled_at_once(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    answer = await ada.cancel(order["id"])
    assert answer.status_code == 202
    cancelled = answer.json()
    changed = {"status": "cancelled", "reason": "by_user", "updated_at": cancelled["updated_at"]}
    assert cancelled == order | changed
    assert cancelled["updated_at"] > order["updated_at"]
    assert (await ada.get("order", f"/orders/{order['id']}", wait=30)).json() == cancelled
    query = "SELECT headers, value FROM outbox WHERE key = %s ORDER BY position"
    _, (headers, value) = shop.database.rows(query, str(ada.id))
    event = dict(orjson.loads(headers))
    assert (event["ce_type"], event["ce_correlationid"]) == ("OrderCancelled", answer.headers["Flow-Id"])
    assert orjson.loads(value) == {"order_id": order["id"], "user_id": str(ada.id), "reason": "by_user"}


async def test_a_paid_order_is_cancelled_and_refunded_once_billing_says_so(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    await shop.hear(paid(order))
    assert (await ada.cancel(order["id"])).json()["status"] == "cancelled"
    await shop.hear(refunded(order))
    (found,) = await ada.orders()
    assert (found["status"], found["reason"]) == ("refunded", "by_user")


async def test_what_is_over_cannot_be_cancelled(shop: Alone) -> None:
    ada = await shop.customer()
    over = {status: (await ada.order("100")).json() for status in ("rejected", "cancelled", "refunded")}
    await shop.hear(refused(over["rejected"]), paid(over["refunded"]))
    for status in ("cancelled", "refunded"):
        assert (await ada.cancel(over[status]["id"])).status_code == 202
    await shop.hear(refunded(over["refunded"]))
    before = await ada.orders()
    for status, order in over.items():
        assert_problem(await ada.cancel(order["id"]), 409, f"already_{status}")
    assert await ada.orders() == before


async def test_one_key_one_cancel_however_often_at_once(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    answers = await asyncio.gather(*(ada.cancel(order["id"], key="changed my mind") for _ in range(50)))
    assert {(answer.status_code, answer.content, answer.headers["Flow-Id"]) for answer in answers} == {
        (202, answers[0].content, answers[0].headers["Flow-Id"])
    }
    assert (await ada.cancel(order["id"], key="another")).status_code == 409


async def test_of_many_cancels_at_once_one_counts(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    answers = await asyncio.gather(*(ada.cancel(order["id"]) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [202, *19 * [409]]


async def test_other_peoples_orders_cannot_be_cancelled(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    order = (await ada.order("100")).json()
    other, missing = await asyncio.gather(eve.cancel(order["id"]), eve.cancel(str(uuid4())))
    assert_problem(other, 404, "not_found")
    assert other.content == missing.content
    assert_problem(await eve.cancel("not-an-id"), 404, "not_found")
    assert await ada.orders() == [order]


async def test_a_cancel_needs_a_key(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("100")).json()
    headers = {"Authorization": f"Bearer {ada.token}"}
    answer = await shop.http.post(f"/orders/{order['id']}/cancel", headers=headers)
    assert_problem(answer, 400, "idempotency_key_missing")
    answer = await shop.http.post(f"/orders/{order['id']}/cancel", headers=headers | {"Idempotency-Key": "k"})
    assert answer.status_code == 202, "and no body"


async def test_orders_page_by_page_newest_first(shop: Alone) -> None:
    ada = await shop.customer()
    placed = [(await ada.order("1")).json()["id"] for _ in range(5)]
    await shop.hear(paid({"id": placed[0], "user_id": str(ada.id)}))  # its place does not move
    first = (await ada.get("order", "/orders", limit=3)).json()
    rest = (await ada.get("order", "/orders", limit=3, cursor=first["next"])).json()
    assert [order["id"] for order in first["items"] + rest["items"]] == placed[::-1]
    assert rest["next"] is None


async def test_other_peoples_orders_are_not_there(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    order = (await ada.order("100")).json()
    assert await eve.orders() == []
    missing = await eve.get("order", f"/orders/{uuid4()}")
    other = await eve.get("order", f"/orders/{order['id']}", wait=30)  # not even a wait tells
    assert_problem(other, 404, "not_found")
    assert other.content == missing.content


async def test_a_cursor_of_somebody_elses_shows_ones_own(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    for _ in range(3):
        await ada.order("1")
    own = (await eve.order("2")).json()["id"]
    theirs = (await ada.get("order", "/orders", limit=1)).json()["next"]
    for cursor in (theirs, pages.cursor(2**63 - 1)):
        seen = (await eve.get("order", "/orders", cursor=cursor)).json()["items"]
        assert {order["id"] for order in seen} <= {own}


@pytest.mark.parametrize("id", ["7", "not-an-id", "0" * 32, "%00", "{00000000-0000-0000-0000-000000000000}"])
async def test_an_id_that_is_none_names_nothing(shop: Alone, id: str) -> None:
    ada = await shop.customer()
    assert_problem(await ada.get("order", f"/orders/{id}"), 404, "not_found")


@pytest.mark.parametrize("wait", ["-1", "31", "x", "1.5", ""])
async def test_a_wait_out_of_range(shop: Alone, wait: str) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    problem = assert_problem(
        await ada.get("order", f"/orders/{order['id']}", wait=wait), 422, "invalid_request"
    )
    assert [error["parameter"] for error in problem["errors"]] == ["wait"]


PRICES = [0, "0", "0.00", -1, "-1", 1.001, "1.001", "100.000", 10**30, str(10**30), 1e30, "NaN", "ten", ""]


@pytest.mark.parametrize("price", [*PRICES, "1000000000", None, True, [1], {"amount": 1}])
async def test_illegal_prices_write_nothing(shop: Alone, price: Any) -> None:
    ada = await shop.customer()
    written = {table: shop.database.count(table) for table in ("orders", "journal", "outbox")}
    assert_refused_at(await ada.post("order", "/orders", {"price": price}), "#/price")
    assert written == {table: shop.database.count(table) for table in written}


async def test_a_price_that_is_not_even_json(shop: Alone) -> None:
    ada = await shop.customer()
    headers = {
        "Authorization": f"Bearer {ada.token}",
        "Content-Type": "application/json",
        "Idempotency-Key": "k",
    }
    answer = await shop.http.post("/orders", content=b'{"price": NaN}', headers=headers)
    assert_problem(answer, 400, "malformed_body")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/price"),
        ({"price": "1", "description": "x" * 501}, "#/description"),
        ({"price": "1", "description": 7}, "#/description"),
        ({"price": "1", "description": "a\u0000b"}, "#/description"),
        ({"price": "1", "user_id": str(uuid4())}, "#/user_id"),
    ],
)
async def test_what_no_order_may_hold(shop: Alone, body: Json, pointer: str) -> None:
    assert_refused_at(await (await shop.customer()).post("order", "/orders", body), pointer)


async def test_a_description_is_kept_as_it_was_written(shop: Alone) -> None:
    ada = await shop.customer()
    for description in ("x" * 500, "Lampe für 'Zuhause' 💡\n\\x00 %s {}", "", None):
        answer = await ada.post("order", "/orders", {"price": "1", "description": description})
        assert (await ada.get("order", answer.headers["Location"])).json()["description"] == description


async def test_an_order_needs_a_key(shop: Alone) -> None:
    ada = await shop.customer()
    headers = {"Authorization": f"Bearer {ada.token}"}
    answer = await shop.http.post("/orders", json={"price": "1"}, headers=headers)
    assert_problem(answer, 400, "idempotency_key_missing")
    assert await ada.orders() == []
