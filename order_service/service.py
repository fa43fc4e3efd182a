"""The order service as the chassis needs to know it, with nothing that runs."""

from datetime import timedelta
from functools import partial

from choreo.chassis.service import Service, Waiting
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from order_service.commands import CancelOrder, ExpireOrder, PlaceOrder
from order_service.decide import SERVICE, decide
from order_service.evolve import evolve
from order_service.queries import UNDECIDED
from order_service.react import react
from order_service.state import Orders
from order_service.store import STORE

HEARS = (PaymentConfirmed, PaymentRejected, PaymentRefunded)
OBEYS = (PlaceOrder, CancelOrder, ExpireOrder)


def decider(settings: Settings) -> Decider[Orders]:
    return Decider(SERVICE, partial(decide, deadline=deadline(settings)), evolve, react)


def deadline(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.decide_within)


def service(settings: Settings) -> Service[Orders]:
    return Service(decider(settings), STORE, HEARS, OBEYS, Waiting("undecided orders", UNDECIDED))
