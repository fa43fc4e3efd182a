"""Billing alone: accounts, money in and money out, and the same request again."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest
import pytest_asyncio

from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered
from tests.component.alone import (
    NEVER,
    Alone,
    alone,
    assert_closed_to_strangers,
    assert_problem,
    assert_refused_at,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def billing(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("billing", postgres, templates) as service:
        yield service


async def holder(billing: Alone, balance: str | None = None) -> Customer:
    """Somebody with an account."""
    customer = await billing.customer()
    await billing.hear(registered(customer))
    if balance:
        assert (await customer.deposit(balance)).status_code == 201
    return customer


def registered(customer: Customer) -> UserRegistered:
    return UserRegistered(user_id=customer.id, login=customer.login, email=f"{customer.login}@example.com")


def order(customer: Customer, price: int) -> OrderCreated:
    return OrderCreated(order_id=uuid4(), user_id=customer.id, price=price, description=None, decide_by=NEVER)


def cancelled(order: OrderCreated) -> OrderCancelled:
    return OrderCancelled(order_id=order.order_id, user_id=order.user_id, reason="by_user")


async def balance_of(customer: Customer) -> str:
    return str((await customer.account()).raise_for_status().json()["balance"])


async def entries_of(customer: Customer) -> list[dict[str, object]]:
    return list((await customer.get("billing", "/account/entries")).raise_for_status().json()["items"])


async def test_strangers_are_sent_away(billing: Alone) -> None:
    await assert_closed_to_strangers(billing)


async def test_before_the_account_is_there(billing: Alone) -> None:
    early = await billing.customer()
    for answer in (await early.account(), await early.deposit("10"), await early.withdraw("10")):
        assert_problem(answer, 404, "not_found")
    assert (await early.deposit("10")).headers["Retry-After"] == "1"
    assert await entries_of(early) == []


async def test_a_deposit_too_early_may_be_repeated_with_its_key(billing: Alone) -> None:
    early = await billing.customer()
    assert (await early.deposit("10", key="first")).status_code == 404
    await billing.hear(registered(early))
    assert (await early.deposit("10", key="first")).json()["balance"] == "10.00"


async def test_a_registration_brings_an_account(billing: Alone) -> None:
    customer = await holder(billing)
    account = (await customer.account()).json()
    assert account.keys() == {"id", "user_id", "balance", "currency", "created_at"}
    assert UUID(account["user_id"]) == customer.id
    assert (account["balance"], account["currency"]) == ("0.00", "EUR")


async def test_money_in_and_out(billing: Alone) -> None:
    customer = await holder(billing)
    deposited = await customer.deposit("400.5")
    assert deposited.status_code == 201
    assert deposited.json() == {"id": deposited.json()["id"], "amount": "400.50", "balance": "400.50"}
    withdrawn = await customer.withdraw("100")
    assert withdrawn.status_code == 201
    assert withdrawn.json() == {"id": withdrawn.json()["id"], "amount": "100.00", "balance": "300.50"}
    everything = await customer.withdraw("300.50")
    assert everything.json()["balance"] == await balance_of(customer) == "0.00"
    assert [entry["id"] for entry in await entries_of(customer)] == [
        answer.json()["id"] for answer in (everything, withdrawn, deposited)
    ]


async def test_too_little_money_is_told_with_its_numbers(billing: Alone) -> None:
    customer = await holder(billing, "400")
    answer = await customer.withdraw("500", key="too much")
    problem = assert_problem(answer, 409, "insufficient_funds")
    assert (problem["balance"], problem["requested"]) == ("400.00", "500.00")
    assert await balance_of(customer) == "400.00"
    await customer.deposit("100")
    again = await customer.withdraw("500", key="too much")
    assert (again.status_code, again.content) == (409, answer.content), "a decision stands"
    assert (await customer.withdraw("500")).status_code == 201


async def test_orders_are_paid_while_there_is_money(billing: Alone) -> None:
    customer = await holder(billing, "400")
    paid, refused, exact = order(customer, 100_00), order(customer, 500_00), order(customer, 300_00)
    await billing.hear(paid, refused, exact)
    assert await balance_of(customer) == "0.00"
    assert [(entry["kind"], entry["amount"], entry["order_id"]) for entry in await entries_of(customer)] == [
        ("payment", "300.00", str(exact.order_id)),
        ("payment", "100.00", str(paid.order_id)),
        ("deposit", "400.00", None),
    ]
    query = "SELECT outcome FROM payments WHERE user_id = %s ORDER BY step"
    outcomes = billing.database.rows(query, customer.id)
    assert outcomes == [("confirmed",), ("rejected",), ("confirmed",)]


async def test_an_order_heard_before_its_user_waits_for_the_account(billing: Alone) -> None:
    customer = await billing.customer()
    early = order(customer, 1)
    await billing.hear(early)
    query = "SELECT outcome FROM payments WHERE order_id = %s"
    assert billing.database.rows(query, early.order_id) == [("waiting",)]
    await billing.hear(registered(customer))
    assert billing.database.rows(query, early.order_id) == [("rejected",)]
    assert await balance_of(customer) == "0.00"


async def test_the_money_of_a_cancelled_order_comes_back(billing: Alone) -> None:
    customer = await holder(billing, "400")
    paid, refused = order(customer, 100_00), order(customer, 500_00)
    await billing.hear(paid, refused, cancelled(paid), cancelled(refused))
    refund, payment, deposit = await entries_of(customer)
    assert (refund["kind"], refund["amount"], refund["balance"]) == ("refund", "100.00", "400.00")
    assert (payment["kind"], payment["amount"], payment["balance"]) == ("payment", "100.00", "300.00")
    assert refund["order_id"] == payment["order_id"] == str(paid.order_id)
    assert await balance_of(customer) == deposit["balance"] == "400.00"
    query = "SELECT outcome FROM payments WHERE order_id = ANY(%s) ORDER BY step"
    assert billing.database.rows(query, [paid.order_id, refused.order_id]) == [("refunded",), ("rejected",)]


async def test_an_order_cancelled_before_its_account_is_there_is_never_paid(billing: Alone) -> None:
    early = await billing.customer()
    waiting, other = order(early, 1), order(early, 1)
    await billing.hear(waiting, other, cancelled(waiting), registered(early))
    query = "SELECT value FROM outbox WHERE key = %s ORDER BY position"
    facts = [orjson.loads(value) for (value,) in billing.database.rows(query, str(early.id))]
    assert [(fact.get("order_id"), fact.get("reason")) for fact in facts] == [
        (str(waiting.order_id), "order_cancelled"),
        (None, None),
        (str(other.order_id), "insufficient_funds"),
    ]


async def test_a_cancel_of_an_order_never_heard_of_is_parked(billing: Alone) -> None:
    """It cannot come first: both travel under one key on one topic. If it does a person has to look."""
    customer = await holder(billing, "400")
    await billing.hear(cancelled(order(customer, 1)))
    query = "SELECT reason, error FROM parked WHERE key = %s"
    ((reason, error),) = billing.database.rows(query, str(customer.id))
    assert reason == "handler" and "nobody has asked for its payment" in error


async def test_the_same_request_again_gets_the_same_answer(billing: Alone) -> None:
    customer = await holder(billing)
    first = await customer.deposit("100", key="salary")
    again = await customer.deposit("100.00", key="salary")  # the same amount in other letters
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Flow-Id"] == first.headers["Flow-Id"]
    assert again.headers.items() == first.headers.items()
    assert await balance_of(customer) == "100.00"


async def test_another_body_under_a_used_key_is_refused(billing: Alone) -> None:
    customer = await holder(billing)
    await customer.deposit("100", key="salary")
    assert_problem(await customer.deposit("200", key="salary"), 422, "idempotency_key_reused")
    assert await balance_of(customer) == "100.00"


async def test_keys_are_ones_own(billing: Alone) -> None:
    """The same key of another user, or for another request, names something else."""
    one, other = await holder(billing), await holder(billing)
    flows = [
        (await one.deposit("5", key="k")).headers["Flow-Id"],
        (await other.deposit("5", key="k")).headers["Flow-Id"],
        (await one.withdraw("5", key="k")).headers["Flow-Id"],
    ]
    assert len(set(flows)) == 3
    assert (await balance_of(one), await balance_of(other)) == ("0.00", "5.00")


async def test_a_hundred_first_uses_of_a_key_at_once_have_one_effect(billing: Alone) -> None:
    customer = await holder(billing)
    answers = await asyncio.gather(*(customer.deposit("7", key="once") for _ in range(100)))
    assert {(answer.status_code, answer.content, answer.headers["Flow-Id"]) for answer in answers} == {
        (201, answers[0].content, answers[0].headers["Flow-Id"])
    }
    assert await balance_of(customer) == "7.00"
    assert len(await entries_of(customer)) == 1


async def test_a_hundred_keys_at_once_on_one_account_have_their_hundred_effects(billing: Alone) -> None:
    customer = await holder(billing)
    answers = await asyncio.gather(*(customer.deposit("1") for _ in range(100)))
    balances = sorted(float(answer.json()["balance"]) for answer in answers)
    assert balances == [float(number) for number in range(1, 101)]


async def test_a_key_is_required(billing: Alone) -> None:
    customer = await holder(billing)
    headers = {"Authorization": f"Bearer {customer.token}"}
    for path in ("/account/deposits", "/account/withdrawals"):
        answer = await billing.http.post(path, json={"amount": "1"}, headers=headers)
        assert_problem(answer, 400, "idempotency_key_missing")
        # The body comes first only where it is malformed; what is merely unacceptable comes later.
        answer = await billing.http.post(path, json={"amount": "x"}, headers=headers)
        assert_problem(answer, 400, "idempotency_key_missing")
    assert await balance_of(customer) == "0.00"


ILLEGAL = ["0", "0.00", "-1", "+1", "1.001", "100.000", "1000000000", "1e2", "1_0", " 1", "01", "ten", ""]
ILLEGAL_JSON = [
    "0",
    "-1",
    "1.001",
    "1e30",
    "1" + "0" * 30,
    "null",
    "true",
    "[1]",
    '{"a": 1}',
    '"NaN"',
    '"\u0661"',
]


@pytest.mark.parametrize("amount", [*(f'"{text}"' for text in ILLEGAL), *ILLEGAL_JSON])
async def test_illegal_amounts_write_nothing(billing: Alone, amount: str) -> None:
    customer = await holder(billing, "50")
    written = {table: billing.database.count(table) for table in ("journal", "outbox", "ledger")}
    for path in ("/account/deposits", "/account/withdrawals"):
        assert_refused_at(await post_raw(billing, customer, path, f'{{"amount": {amount}}}'), "#/amount")
    assert written == {table: billing.database.count(table) for table in written}
    assert await balance_of(customer) == "50.00"


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "01", "1."])
async def test_what_is_no_json_is_malformed(billing: Alone, amount: str) -> None:
    customer = await holder(billing)
    answer = await post_raw(billing, customer, "/account/deposits", f'{{"amount": {amount}}}')
    assert_problem(answer, 400, "malformed_body")


@pytest.mark.parametrize("amount", ['"0.01"', "0.01", "999999999.99", '"999999999.99"', "12.5", "100"])
async def test_legal_amounts(billing: Alone, amount: str) -> None:
    customer = await holder(billing)
    answer = await post_raw(billing, customer, "/account/deposits", f'{{"amount": {amount}}}')
    assert answer.status_code == 201
    assert answer.json()["balance"] == f"{float(amount.strip(chr(34))):.2f}"


async def test_fields_nobody_asked_for(billing: Alone) -> None:
    customer = await holder(billing)
    answer = await customer.post("billing", "/account/deposits", {"amount": "1", "currency": "USD"})
    assert_refused_at(answer, "#/currency")
    assert_refused_at(await customer.post("billing", "/account/deposits", {}), "#/amount")


async def test_entries_page_by_page_newest_first(billing: Alone) -> None:
    customer = await holder(billing)
    for number in range(1, 6):
        await customer.deposit(f"{number}.00")
    seen: list[str] = []
    query: dict[str, str] = {}
    pages = 0
    while True:
        page = (await customer.get("billing", "/account/entries", limit=2, **query)).json()
        seen += [entry["amount"] for entry in page["items"]]
        pages += 1
        if pages == 1:
            await customer.deposit("99.00")  # what is new does not move what is shown
        if page["next"] is None:
            break
        query = {"cursor": page["next"]}
    assert seen == ["5.00", "4.00", "3.00", "2.00", "1.00"]
    assert pages == 3
    newest = (await entries_of(customer))[0]
    assert newest.keys() == {"id", "kind", "amount", "balance", "order_id", "at"}
    assert (newest["kind"], newest["amount"], newest["balance"]) == ("deposit", "99.00", "114.00")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=1&limit=2", "cursor=x", "cursor=", "limit=%C2%B2"]
)
async def test_a_page_out_of_range(billing: Alone, query: str) -> None:
    customer = await holder(billing)
    headers = {"Authorization": f"Bearer {customer.token}"}
    answer = await billing.http.get(f"/account/entries?{query}", headers=headers)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["parameter"] for error in problem["errors"]] == [query.partition("=")[0]]


async def test_the_ledger_sums_to_zero_and_agrees_with_the_balance(billing: Alone) -> None:
    customer = await holder(billing, "400")
    await billing.hear(order(customer, 150_00), order(customer, 300_00))
    await customer.withdraw("50")
    sums = "SELECT entry_id FROM ledger GROUP BY entry_id HAVING sum(amount) <> 0 OR count(*) <> 2"
    assert billing.database.rows(sums) == []
    legs = "SELECT sum(amount)::bigint FROM ledger WHERE user_id = %s AND side = 'customer'"
    balance = "SELECT balance FROM accounts WHERE user_id = %s"
    assert billing.database.rows(legs, customer.id) == billing.database.rows(balance, customer.id)
    assert await balance_of(customer) == "200.00"


async def test_facts_wait_in_the_outbox_while_there_is_no_kafka(billing: Alone) -> None:
    customer = await holder(billing, "10")
    query = "SELECT headers FROM outbox WHERE key = %s ORDER BY position"
    headers = [dict(orjson.loads(row)) for (row,) in billing.database.rows(query, str(customer.id))]
    assert [(header["ce_type"], header["ce_sequence"]) for header in headers] == [
        ("AccountCreated", f"{2:020d}"),
        ("MoneyDeposited", f"{3:020d}"),
    ]


async def post_raw(billing: Alone, customer: Customer, path: str, body: str) -> httpx2.Response:
    headers = {
        "Authorization": f"Bearer {customer.token}",
        "Content-Type": "application/json",
        "Idempotency-Key": uuid4().hex,
    }
    return await billing.http.post(path, content=body.encode(), headers=headers)
