"""`Idempotency-Key` at every route that takes one: which answers are kept, and whose they are."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import httpx2
import psycopg
import pytest
import pytest_asyncio

from choreo.chassis.transaction import kernel
from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from events.user import UserRegistered
from tests.component.alone import Alone, a_process, alone, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

Ask = Callable[[Customer, str], Awaitable[httpx2.Response]]

DEPOSITS, WITHDRAWALS, ORDERS = "/account/deposits", "/account/withdrawals", "/orders"
SERVICE = {DEPOSITS: "billing", WITHDRAWALS: "billing", ORDERS: "order"}
FIELD = {DEPOSITS: "amount", WITHDRAWALS: "amount", ORDERS: "price"}
ROUTES = [*SERVICE, "cancel"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[dict[str, Alone]]:
    async with alone("billing", postgres, templates) as billing, alone("order", postgres, templates) as order:
        yield {"billing": billing, "order": order}


@pytest.fixture(scope="module")
def billing(services: dict[str, Alone]) -> Alone:
    return services["billing"]


@dataclass(frozen=True)
class Asked:
    """A customer for whom the request is possible, and the request, to be made with a key."""

    service: Alone
    customer: Customer
    ask: Ask

    async def __call__(self, key: str) -> httpx2.Response:
        return await self.ask(self.customer, key)

    def through(self, process: Alone) -> "Asked":
        """The same request of the same customer, answered by another process."""
        return replace(self, customer=replace(self.customer, services={process.service: process.http}))

    def published(self) -> int:
        query = "SELECT count(*) FROM outbox WHERE key = %s"
        return int(self.service.database.rows(query, str(self.customer.id))[0][0])


async def asked(route: str, services: dict[str, Alone]) -> Asked:
    service = services[SERVICE.get(route, "order")]
    customer = await service.customer()
    if service.service == "billing":
        name = customer.login
        await service.hear(UserRegistered(user_id=customer.id, login=name, email=f"{name}@example.com"))
        assert (await customer.deposit("700.00")).status_code == 201
    if route == "cancel":
        order = (await customer.order("7.00")).json()["id"]
        return Asked(service, customer, lambda customer, key: customer.cancel(order, key))
    return Asked(service, customer, lambda customer, key: post(customer, route, "7.00", key))


def post(customer: Customer, route: str, amount: str, key: str) -> Awaitable[httpx2.Response]:
    return customer.post(SERVICE[route], route, {FIELD[route]: amount}, key)


def of(answer: httpx2.Response) -> tuple[int, bytes, str]:
    return answer.status_code, answer.content, answer.headers["Flow-Id"]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_hundred_first_uses_at_once_in_two_processes_have_one_effect(
    services: dict[str, Alone], route: str
) -> None:
    here = await asked(route, services)
    async with a_process(here.service.service, here.service.database) as other:
        there = here.through(other)
        before = here.published()
        answers = await asyncio.gather(*(request("once") for _ in range(50) for request in (here, there)))
    assert len({of(answer) for answer in answers}) == 1
    assert answers[0].status_code in (201, 202)
    assert here.published() == before + 1


@pytest.mark.parametrize("route", ROUTES)
async def test_a_process_started_later_knows_the_first_answer(services: dict[str, Alone], route: str) -> None:
    request = await asked(route, services)
    first = await request("once")
    published = request.published()
    async with a_process(request.service.service, request.service.database) as later:
        assert of(await request.through(later)("once")) == of(first)
    assert request.published() == published


@pytest.mark.parametrize("route", ROUTES)
async def test_another_users_same_key_is_another_request(services: dict[str, Alone], route: str) -> None:
    answers = [await (await asked(route, services))("same") for _ in range(2)]
    assert answers[0].status_code == answers[1].status_code
    assert answers[0].headers["Flow-Id"] != answers[1].headers["Flow-Id"]


@pytest.mark.parametrize("route", SERVICE)
async def test_the_same_amount_in_other_letters_is_the_same_body_and_another_amount_is_not(
    services: dict[str, Alone], route: str
) -> None:
    customer = (await asked(route, services)).customer
    first = await post(customer, route, "100", "once")
    for amount in (b"100", b"100.0", b"100.00", b'"100.00"'):
        content = b'{"%s": %s}' % (FIELD[route].encode(), amount)
        assert of(await post_raw(customer, route, content)) == of(first)
    assert_problem(await post(customer, route, "100.01", "once"), 422, "idempotency_key_reused")


async def post_raw(customer: Customer, route: str, content: bytes, **headers: str) -> httpx2.Response:
    named = {"Authorization": f"Bearer {customer.token}", "Idempotency-Key": "once"}
    named |= {"Content-Type": "application/json"} | {
        name.replace("_", "-"): headers[name] for name in headers
    }
    return await customer.services[SERVICE[route]].post(route, content=content, headers=named)


async def test_one_key_stands_for_a_request_of_each_route(services: dict[str, Alone]) -> None:
    customer = (await asked(DEPOSITS, services)).customer
    deposited, withdrawn = [await post(customer, route, "7.00", "same") for route in (DEPOSITS, WITHDRAWALS)]
    assert (deposited.json()["balance"], withdrawn.json()["balance"]) == ("707.00", "700.00")


async def test_a_409_is_kept_though_there_would_be_enough_by_now(services: dict[str, Alone]) -> None:
    customer = (await asked(WITHDRAWALS, services)).customer
    first = await customer.withdraw("900.00", "once")
    assert_problem(first, 409, "insufficient_funds")
    assert (await customer.deposit("1000.00")).status_code == 201
    assert of(await customer.withdraw("900.00", "once")) == of(first)
    assert (await customer.withdraw("900.00", "another")).status_code == 201


GOOD = b'{"amount": "7.00"}'


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (400, b"{", {}),
        (401, GOOD, {"Authorization": "Bearer none"}),
        (413, b" " * 70_000 + GOOD, {}),
        (415, GOOD, {"Content_Type": "text/plain"}),
        (422, b'{"amount": "-7.00"}', {}),
    ],
)
async def test_what_was_no_proper_request_is_not_kept(
    services: dict[str, Alone], status: int, content: bytes, headers: dict[str, str]
) -> None:
    customer = (await asked(DEPOSITS, services)).customer
    assert (await post_raw(customer, DEPOSITS, content, **headers)).status_code == status
    assert (await post_raw(customer, DEPOSITS, GOOD)).json()["balance"] == "707.00"


@pytest.mark.parametrize("route", [DEPOSITS, WITHDRAWALS])
async def test_a_404_is_not_kept(billing: Alone, route: str) -> None:
    customer = await billing.customer()
    assert_problem(await post(customer, route, "7.00", "once"), 404, "not_found")
    await billing.hear(UserRegistered(user_id=customer.id, login=customer.login, email="a@example.com"))
    assert (await customer.deposit("7.00")).status_code == 201
    assert (await post(customer, route, "7.00", "once")).status_code == 201


async def test_a_500_is_not_kept(services: dict[str, Alone], billing: Alone) -> None:
    """Where the database refuses what nobody thought of, and then does not."""
    customer = (await asked(DEPOSITS, services)).customer
    with psycopg.connect(billing.database.owner_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE accounts ADD CONSTRAINT modest CHECK (balance < 100000)")
        assert_problem(await customer.deposit("1000.00", "once"), 500, "internal_error")
        owner.execute("ALTER TABLE accounts DROP CONSTRAINT modest")
    assert (await customer.deposit("1000.00", "once")).json()["balance"] == "1700.00"


async def test_a_503_is_not_kept_and_what_it_left_open_takes_effect_once(
    services: dict[str, Alone], billing: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asker is sent away while the database does not go on."""
    customer = (await asked(DEPOSITS, services)).customer
    with psycopg.connect(billing.database.owner_url) as owner, monkeypatch.context() as hasty:
        owner.execute("LOCK TABLE journal IN EXCLUSIVE MODE")
        hasty.setattr(kernel, "ANSWER_TIMEOUT_SECONDS", 0.1)
        assert_problem(await customer.deposit("7.00", "once"), 503, "unavailable")
    first, again = [await customer.deposit("7.00", "once") for _ in range(2)]
    assert of(first) == of(again)
    assert first.json()["balance"] == "707.00" == (await customer.account()).json()["balance"]


async def test_only_answers_of_2xx_and_409_are_kept(services: dict[str, Alone]) -> None:
    """By all of the above."""
    query = "SELECT DISTINCT answer_status FROM journal WHERE kind = 'command'"
    kept = {status for service in services.values() for (status,) in service.database.rows(query)}
    assert kept <= {201, 202, 409}
