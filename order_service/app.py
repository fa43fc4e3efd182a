"""The order service put together."""

from datetime import timedelta
from functools import partial

from fastapi import FastAPI

from chassis import clock
from chassis.runtime import Runtime
from chassis.service import Service, Waiting
from chassis.settings import Settings
from chassis.step import Decider
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import SigningKeyPublished
from order_service import api
from order_service.admission import Admission
from order_service.decide import SERVICE, decide
from order_service.evolve import evolve
from order_service.expiry import Expiry
from order_service.queries import UNDECIDED
from order_service.react import react
from order_service.state import Orders
from order_service.store import SHELVES

HEARS = (SigningKeyPublished, PaymentConfirmed, PaymentRejected, PaymentRefunded)


def decider(settings: Settings) -> Decider[Orders]:
    return Decider(SERVICE, partial(decide, deadline=deadline(settings)), evolve, react)


def deadline(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.decide_within)


def service(settings: Settings) -> Service[Orders]:
    return Service(decider(settings), SHELVES, HEARS, Waiting("undecided orders", UNDECIDED))


def build(settings: Settings) -> tuple[Runtime[Orders], FastAPI]:
    runtime = Runtime(service(settings), settings)
    expiry = Expiry(runtime.kernel, runtime.engine, runtime.news_of("billing"), clock.now, deadline(settings))
    admission = Admission(runtime.engine, clock.now, deadline(settings))
    runtime.jobs += [expiry.run, admission.run]
    return runtime, runtime.app(api.router(runtime, admission))
