"""The mission's story and its quick money cases, told through HTTP alone, as any client could."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx2

from choreo.demo.client import PASSWORD, SHOP, Customer, registration
from choreo.demo.timeline import EventReader

T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
"""Seconds within which everything that happens later must have happened."""
_LOOK_AGAIN = 0.02
_SIGNS = {"deposit": 1, "withdrawal": -1, "payment": -1, "refund": 1}
_BAD_AMOUNTS = {"0": 0, "-1": -1, "1.001": "1.001", "10^30": 10**30, "NaN": "NaN", "letters": "plenty"}


class Unexpected(Exception):
    """The system did not do what the story says. The message is the whole sentence."""


@dataclass
class Stage:
    """Where a story is played."""

    services: dict[str, httpx2.AsyncClient]
    events: EventReader | None
    """None where no events are kept; then nothing is expected of them."""
    held: Callable[[str], None] = lambda what: None
    """Told of each expectation that held."""

    def expect(self, what: str, got: object, wanted: object) -> None:
        """`what` is a sentence that is true if the two are equal. Raises `Unexpected`."""
        if got != wanted:
            raise Unexpected(f"It does not hold that {what}: expected {wanted!r}, got {got!r}.")
        self.held(what)

    async def eventually(self, what: str, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
        """Returns what `look` sees once it is enough. Raises `Unexpected` after `TIMEOUT_SECONDS`."""
        deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
        while not enough(seen := await look()):
            if asyncio.get_running_loop().time() > deadline:
                raise Unexpected(
                    f"It does not hold, within {TIMEOUT_SECONDS:.0f} s, that {what}: got {seen!r}."
                )
            await asyncio.sleep(_LOOK_AGAIN)
        self.held(what)
        return seen

    async def causes(self, answer: httpx2.Response, *types: str) -> None:
        """The request has led the shop to one event of each of these types, and no other. Raises
        `Unexpected`.
        """
        if self.events is None:
            return
        wanted = Counter(types)
        seen = await self.events.until(
            UUID(answer.headers["Flow-Id"]),
            lambda events: Counter(event.type for event in events) >= wanted,
            TIMEOUT_SECONDS,
        )
        got = sorted({event.id: event.type for event in seen if event.source in SHOP}.values())
        path = answer.request.url.path
        self.expect(f"POST {path} causes {', '.join(types)}", got, sorted(types))


async def first_step(stage: Stage) -> Customer:
    """Ada registers, and the same login is taken"""
    user, login = stage.services["user"], f"ada-{uuid4().hex[:8]}"
    answer = await user.post("/users", json=registration(login))
    stage.expect("a registration is answered 201", answer.status_code, 201)
    again = await user.post("/users", json=registration(login))
    stage.expect("the same login again is answered 409", again.status_code, 409)
    await stage.causes(answer, "UserRegistered", "AccountCreated")
    return Customer(stage.services, UUID(answer.json()["id"]), login, token="")


async def signed_in(stage: Stage, ada: Customer) -> Customer:
    """She signs in; without a token nobody is let in"""
    form = {"grant_type": "password", "username": ada.login, "password": PASSWORD}
    answer = await stage.services["user"].post("/token", data=form)
    stage.expect("login and password are good for a token", answer.status_code, 200)
    for service, path in (
        ("user", "/users/me"),
        ("billing", "/account"),
        ("order", "/orders"),
        ("notification", "/notifications"),
    ):
        refused = await stage.services[service].get(path)
        stage.expect(f"GET {path} without a token is answered 401", refused.status_code, 401)
    return Customer(ada.services, ada.id, ada.login, answer.json()["access_token"])


async def account_appears(stage: Stage, ada: Customer) -> None:
    """Her account is there by itself"""
    account = await stage.eventually(
        "the account is there", ada.account, lambda answer: answer.status_code == 200
    )
    stage.expect("it holds 0.00", account.json()["balance"], "0.00")


async def top_up(stage: Stage, ada: Customer) -> None:
    """She puts 400.00 on it"""
    deposit = await ada.deposit("400.00")
    stage.expect("a deposit is answered 201", deposit.status_code, 201)
    await balance_is(stage, ada, "400.00")
    await stage.causes(deposit, "MoneyDeposited")


async def no_orders_yet(stage: Stage, ada: Customer) -> None:
    """She has ordered nothing yet"""
    stage.expect("the list of orders is empty", await ada.orders(), [])


async def paid(stage: Stage, ada: Customer) -> None:
    """She orders for 100.00"""
    answer = await order_becomes(stage, ada, "100.00", "confirmed")
    await balance_is(stage, ada, "300.00")
    (told,) = await notified(stage, ada, 1)
    _tells(stage, told, "order_confirmed", answer.json()["id"])
    stage.expect("it is glad in tone", "thank" in told["text"].lower(), True)
    await stage.causes(answer, "OrderCreated", "PaymentConfirmed", "NotificationSent")


async def too_dear(stage: Stage, ada: Customer) -> None:
    """She orders for 500.00"""
    answer = await order_becomes(stage, ada, "500.00", "rejected")
    stage.expect("the reason is insufficient_funds", answer.json()["reason"], "insufficient_funds")
    await balance_is(stage, ada, "300.00")
    told, _ = await notified(stage, ada, 2)
    _tells(stage, told, "order_rejected", answer.json()["id"])
    stage.expect("it is sorry in tone", "sorry" in told["text"].lower(), True)
    await stage.causes(answer, "OrderCreated", "PaymentRejected", "NotificationSent")


async def looks_back(stage: Stage, ada: Customer) -> None:
    """She looks back"""
    statuses = [order["status"] for order in await ada.orders()]
    stage.expect("the orders are listed newest first", statuses, ["rejected", "confirmed"])
    kinds = [told["kind"] for told in await ada.notifications()]
    stage.expect("so are exactly two notifications", kinds, ["order_rejected", "order_confirmed"])


async def to_the_last_cent(stage: Stage, ada: Customer) -> None:
    """An order for exactly the balance"""
    answer = await order_becomes(stage, ada, "300.00", "confirmed")
    await balance_is(stage, ada, "0.00")
    await notified(stage, ada, 3)
    await stage.causes(answer, "OrderCreated", "PaymentConfirmed", "NotificationSent")


async def two_at_once(stage: Stage, bob: Customer) -> None:
    """Two orders for 300.00 at once, on 400.00"""
    answers = await asyncio.gather(bob.order("300.00", wait=10), bob.order("300.00", wait=10))
    statuses = sorted(answer.json()["status"] for answer in answers)
    stage.expect("exactly one is confirmed", statuses, ["confirmed", "rejected"])
    await balance_is(stage, bob, "100.00")
    await notified(stage, bob, 2)
    for answer in answers:
        outcome = "PaymentConfirmed" if answer.json()["status"] == "confirmed" else "PaymentRejected"
        await stage.causes(answer, "OrderCreated", outcome, "NotificationSent")


async def said_twice(stage: Stage, bob: Customer) -> None:
    """The same Idempotency-Key again"""
    key = uuid4().hex
    first = await bob.order("10.00", wait=10, key=key)
    again = await bob.order("10.00", wait=10, key=key)
    stage.expect("the same key is the same order", again.json()["id"], first.json()["id"])
    other = await bob.order("11.00", key=key)
    stage.expect("with another body it is answered 422", other.status_code, 422)
    await balance_is(stage, bob, "90.00")
    await stage.causes(first, "OrderCreated", "PaymentConfirmed", "NotificationSent")


async def bad_amounts(stage: Stage, bob: Customer) -> None:
    """Deposits of what is no amount"""
    before = await entries(bob)
    for name, amount in _BAD_AMOUNTS.items():
        refused = await bob.post("billing", "/account/deposits", {"amount": amount})
        faults = refused.json().get("errors") or [{}]
        stage.expect(
            f"{name} is answered 422, naming #/amount",
            (refused.status_code, faults[0].get("pointer")),
            (422, "#/amount"),
        )
    stage.expect("nothing was written", await entries(bob), before)


async def to_the_last_minor_unit(stage: Stage, bob: Customer) -> None:
    """A withdrawal, and the sum of everything"""
    withdrawal = await bob.withdraw("40.00")
    stage.expect("a withdrawal is answered 201", withdrawal.status_code, 201)
    balance = (await bob.account()).json()["balance"]
    total = sum(_SIGNS[entry["kind"]] * Decimal(entry["amount"]) for entry in await entries(bob))
    stage.expect("deposits less withdrawals and payments are the balance", f"{total:.2f}", balance)
    stage.expect("the account holds 50.00", balance, "50.00")
    await stage.causes(withdrawal, "MoneyWithdrawn")


async def changes_their_mind(stage: Stage, bob: Customer) -> None:
    """He orders for 20.00, and cancels it when it is paid"""
    order = (await order_becomes(stage, bob, "20.00", "confirmed")).json()["id"]
    cancelled = await bob.cancel(order)
    stage.expect("a cancel is answered 202", cancelled.status_code, 202)
    stage.expect("the order is cancelled at once", cancelled.json()["status"], "cancelled")
    await stage.causes(cancelled, "OrderCancelled", "PaymentRefunded", "NotificationSent")
    await stage.eventually(
        "it becomes refunded",
        lambda: bob.get("order", f"/orders/{order}"),
        lambda answer: answer.json()["status"] == "refunded",
    )
    await balance_is(stage, bob, "50.00")
    refund = (await entries(bob))[0]
    stage.expect("the entry says so", (refund["kind"], refund["order_id"]), ("refund", order))
    told, *_ = await notified(stage, bob, 5)
    _tells(stage, told, "order_refunded", order)
    again = await bob.cancel(order)
    stage.expect("it cannot be cancelled again: 409", again.status_code, 409)


async def nobody_elses(stage: Stage, ada: Customer, bob: Customer) -> None:
    """Bob asks for what is Ada's"""
    order, told = (await ada.orders())[0], (await ada.notifications())[0]
    for service, path in (
        ("order", f"/orders/{order['id']}"),
        ("notification", f"/notifications/{told['id']}"),
    ):
        refused = await bob.get(service, path)
        stage.expect(f"her {service} is not found", refused.status_code, 404)


async def another_customer(stage: Stage) -> Customer:
    """Bob comes in with 400.00"""
    bob = await Customer.register(stage.services, f"bob-{uuid4().hex[:8]}")
    await stage.eventually("the account is there", bob.account, lambda answer: answer.status_code == 200)
    await stage.causes(await bob.deposit("400.00"), "MoneyDeposited")
    return bob


# What the scenes have in common.


async def order_becomes(stage: Stage, customer: Customer, price: str, status: str) -> httpx2.Response:
    """The answer, which waited for the decision."""
    answer = await customer.order(price, wait=int(TIMEOUT_SECONDS))
    stage.expect("an order that is waited for is answered 201", answer.status_code, 201)
    stage.expect(f"it is {status}", answer.json()["status"], status)
    return answer


async def balance_is(stage: Stage, customer: Customer, balance: str) -> None:
    account = (await customer.account()).json()
    stage.expect(f"the account holds {balance}", account.get("balance"), balance)


async def notified(stage: Stage, customer: Customer, count: int) -> list[dict[str, Any]]:
    """All of the customer's notifications, newest first, once there are so many."""
    told = await stage.eventually(
        "a notification is there", customer.notifications, lambda found: len(found) >= count
    )
    stage.expect(f"there are {count} of them" if count > 1 else "there is one of them", len(told), count)
    return told


async def entries(customer: Customer) -> list[dict[str, Any]]:
    answer = await customer.get("billing", "/account/entries")
    return list(answer.raise_for_status().json()["items"])


def _tells(stage: Stage, told: dict[str, Any], kind: str, order_id: str) -> None:
    got = told["kind"], told["order_id"], order_id in told["text"]
    stage.expect(f"it is of kind {kind} and carries the order's id", got, (kind, order_id, True))
