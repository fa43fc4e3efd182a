"""Billing as the chassis needs to know it, with nothing that runs: no HTTP, no broker, no database."""

from functools import partial

from pydantic import Field

from billing_service.commands import Commands
from billing_service.decide import SERVICE, decide
from billing_service.evolve import Consumed, evolve
from billing_service.queries import ACCOUNT_BY_ID, ENTRY_BY_ID, LACK_AN_ACCOUNT, WITHOUT_ACCOUNT
from billing_service.react import react
from billing_service.state import Billing
from billing_service.store import STORE
from choreo.chassis.http.money import Currency, decimal_text
from choreo.chassis.service import End, Follow, Id, Service, Waiting
from choreo.chassis.settings import OwnSettings, Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from events.billing import AccountCreated, PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered

FOLLOWS = (
    Follow(UserRegistered, (AccountCreated,)),
    Follow(
        OrderCreated,
        (PaymentConfirmed, PaymentRejected),
        about="order_id",
        waits="waits for the account",
        waits_for=UserRegistered,
        due="decide_by",
    ),
    Follow(
        OrderCancelled,
        (PaymentRefunded, PaymentRejected),
        about="order_id",
        rules_out={PaymentConfirmed: PaymentRejected},
    ),
)


ACCOUNTS = End(
    ("balance",),
    lambda account: f"the balance of {account.user_id}",
    lambda account: decimal_text(account.balance),
)


class BillingSettings(OwnSettings):
    currency: Currency = Field("EUR", description="the one currency of an installation, with two decimals")


IDS = (Id("account", ACCOUNT_BY_ID), Id("entry", ENTRY_BY_ID))


def decider(settings: Settings) -> Decider[Billing]:
    currency = settings.own_of(SERVICE, BillingSettings).currency
    return Decider(SERVICE, partial(decide, currency=currency), evolve, react)


def service(settings: Settings) -> Service[Billing]:
    waiting = Waiting("orders without an account", WITHOUT_ACCOUNT, LACK_AN_ACCOUNT)
    return Service(
        decider(settings),
        STORE,
        types_of(Consumed),
        types_of(Commands),
        waiting,
        follows=FOLLOWS,
        ids=IDS,
        ends={"accounts": ACCOUNTS},
        settings=settings.own_of(SERVICE, BillingSettings),
        port_offset=3,
    )
