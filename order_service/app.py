"""The order service put together."""

from datetime import timedelta
from functools import partial

from fastapi import FastAPI

from chassis.runtime import Runtime
from chassis.settings import Settings
from chassis.step import Decider
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import SigningKeyPublished
from order_service import api
from order_service.decide import SERVICE, decide
from order_service.evolve import evolve
from order_service.react import react
from order_service.state import Orders
from order_service.store import SHELVES

HEARS = (SigningKeyPublished, PaymentConfirmed, PaymentRejected, PaymentRefunded)
DEADLINE = timedelta(seconds=30)


def decider() -> Decider[Orders]:
    return Decider(SERVICE, partial(decide, deadline=DEADLINE), evolve, react)


def build(settings: Settings) -> tuple[Runtime[Orders], FastAPI]:
    runtime = Runtime(decider(), SHELVES, HEARS, settings)
    return runtime, runtime.app(api.router(runtime))
