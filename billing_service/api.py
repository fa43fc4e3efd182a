"""HTTP in, command out; and what billing holds, read from its tables."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Row

from billing_service import queries
from billing_service.commands import Deposit, InsufficientFunds, NoAccount, Withdraw
from billing_service.state import Billing
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.body import Body
from choreo.chassis.http.money import Amount, Money, decimal_text
from choreo.chassis.http.pages import Page
from choreo.chassis.http.problems import Problem, not_there_yet
from choreo.chassis.http.routes import KeyedCause, Paging, Router, User, example, problem
from choreo.chassis.runtime import Runtime
from choreo.chassis.transaction.inputs import Decided
from events.billing import MoneyDeposited, MoneyWithdrawn


class Movement(Body):
    model_config = example(amount="450.00")

    amount: Amount


class AccountView(BaseModel):
    model_config = example(
        id="3f951c90-8f28-5138-99d3-47c8131618a4",
        user_id="b7841663-98cb-5009-999d-5734b6136895",
        balance="100.00",
        currency="EUR",
        created_at="2026-11-23T12:00:00.120000Z",
    )

    id: UUID
    user_id: UUID
    balance: Money
    currency: str
    created_at: datetime


class EntryView(BaseModel):
    model_config = example(
        id="90745911-ed76-5d0a-a998-de0451848a55",
        kind="payment",
        amount="300.00",
        balance="100.00",
        order_id="c30bb1d6-7f25-54d9-a38b-5e4f1a498f84",
        at="2026-11-23T12:00:02.340000Z",
    )

    id: UUID
    kind: Literal["deposit", "withdrawal", "payment", "refund"]
    amount: Money
    balance: Money
    order_id: UUID | None
    at: datetime


class MovedView(BaseModel):
    model_config = example(id="3b3daa58-db68-5984-b8ec-2755a060585b", amount="450.00", balance="450.00")

    id: UUID
    amount: Money
    balance: Money


def router(runtime: Runtime[Billing]) -> Router:
    routes = Router()

    @routes.get("/account", responses={404: problem("no account yet", "Retry-After")})
    async def account(user: User) -> AccountView:
        """The user's payment account. It comes into being by itself, soon after the registration."""
        row = await queries.account_of(runtime.engine, user.user_id)
        if row is None:
            raise _no_account()
        return AccountView.model_validate(row, from_attributes=True)

    @routes.post(
        "/account/deposits",
        status_code=201,
        response_model=MovedView,
        responses={404: problem("no account yet", "Retry-After")},
    )
    async def deposit(user: User, cause: KeyedCause, movement: Movement) -> Answer:
        """Puts money on the account."""
        command = Deposit(cause=cause, user_id=user.user_id, amount=movement.amount)
        return await runtime.ask(command, _moved, body=movement)

    @routes.post(
        "/account/withdrawals",
        status_code=201,
        response_model=MovedView,
        responses={
            404: problem("no account yet", "Retry-After"),
            409: problem("too little money, with `balance` and `requested`"),
        },
    )
    async def withdraw(user: User, cause: KeyedCause, movement: Movement) -> Answer:
        """Takes money off the account, if there is enough."""
        command = Withdraw(cause=cause, user_id=user.user_id, amount=movement.amount)
        return await runtime.ask(command, _moved, body=movement)

    @routes.get("/account/entries")
    async def entries(user: User, page: Paging) -> Page[EntryView]:
        """Every movement of money, newest first."""
        rows = await queries.entries_of(runtime.engine, user.user_id, page)
        return page.page(rows, item=_entry, sequence=lambda row: row.step)

    return routes


def _moved(decided: Decided) -> Answer:
    match decided.refusal:
        case NoAccount():
            return _no_account().answer()
        case InsufficientFunds(balance, requested):
            return Problem(
                409,
                "insufficient_funds",
                "There is less money on the account than was asked for.",
                balance=decimal_text(balance),
                requested=decimal_text(requested),
            ).answer()
    (event,) = decided.events
    assert isinstance(event.data, MoneyDeposited | MoneyWithdrawn)
    moved = MovedView(id=event.id, amount=event.data.amount, balance=event.data.balance)
    return Answer.json(201, moved)


def _no_account() -> Problem:
    return not_there_yet("There is no account yet. It comes into being soon after the registration.")


def _entry(row: Row[Any]) -> EntryView:
    return EntryView(
        id=row.entry_id,
        kind=row.kind,
        amount=abs(row.amount),
        balance=row.balance,
        order_id=row.order_id,
        at=row.at,
    )
