"""The order service as the chassis needs to know it, with nothing that runs."""

from datetime import timedelta
from functools import partial

from choreo.chassis.service import Id, Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from order_service.commands import Commands
from order_service.decide import SERVICE, decide
from order_service.evolve import Consumed, evolve
from order_service.queries import BY_ID, UNDECIDED
from order_service.state import Orders
from order_service.store import STORE


def decider(settings: Settings) -> Decider[Orders]:
    return Decider(SERVICE, partial(decide, deadline=deadline(settings)), evolve)


def deadline(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.decide_within)


def service(settings: Settings) -> Service[Orders]:
    waiting = Waiting("undecided orders", UNDECIDED)
    return Service(
        decider(settings), STORE, types_of(Consumed), types_of(Commands), waiting, ids=(Id("order", BY_ID),)
    )
