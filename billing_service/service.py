"""Billing as the chassis needs to know it, with nothing that runs: no HTTP, no broker, no database."""

from functools import partial

from billing_service.commands import Deposit, Withdraw
from billing_service.decide import SERVICE, decide
from billing_service.evolve import evolve
from billing_service.queries import WITHOUT_ACCOUNT
from billing_service.react import react
from billing_service.state import Billing
from billing_service.store import SHELVES
from chassis.service import Service, Waiting
from chassis.settings import Settings
from chassis.step import Decider
from events.order import OrderCancelled, OrderCreated
from events.user import SigningKeyPublished, UserRegistered

HEARS = (UserRegistered, SigningKeyPublished, OrderCreated, OrderCancelled)
OBEYS = (Deposit, Withdraw)


def decider(settings: Settings) -> Decider[Billing]:
    return Decider(SERVICE, partial(decide, currency=settings.currency), evolve, react)


def service(settings: Settings) -> Service[Billing]:
    waiting = Waiting("orders without an account", WITHOUT_ACCOUNT)
    return Service(decider(settings), SHELVES, HEARS, OBEYS, waiting)
