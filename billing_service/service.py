"""Billing as the chassis needs to know it, with nothing that runs: no HTTP, no broker, no database."""

from functools import partial

from billing_service.commands import Commands
from billing_service.decide import SERVICE, decide
from billing_service.evolve import Consumed, evolve
from billing_service.queries import ACCOUNT_BY_ID, ENTRY_BY_ID, WITHOUT_ACCOUNT
from billing_service.react import react
from billing_service.state import Billing
from billing_service.store import STORE
from choreo.chassis.service import Id, Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of

IDS = (Id("account", ACCOUNT_BY_ID), Id("entry", ENTRY_BY_ID))


def decider(settings: Settings) -> Decider[Billing]:
    return Decider(SERVICE, partial(decide, currency=settings.currency), evolve, react)


def service(settings: Settings) -> Service[Billing]:
    waiting = Waiting("orders without an account", WITHOUT_ACCOUNT)
    return Service(decider(settings), STORE, types_of(Consumed), types_of(Commands), waiting, ids=IDS)
