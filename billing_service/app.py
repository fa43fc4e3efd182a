"""Billing put together."""

from functools import partial

from fastapi import FastAPI

from billing_service import api
from billing_service.decide import SERVICE, decide
from billing_service.evolve import evolve
from billing_service.queries import WITHOUT_ACCOUNT
from billing_service.react import react
from billing_service.state import Billing
from billing_service.store import SHELVES
from chassis.runtime import Runtime
from chassis.service import Service, Waiting
from chassis.settings import Settings
from chassis.step import Decider
from events.order import OrderCancelled, OrderCreated
from events.user import SigningKeyPublished, UserRegistered

HEARS = (UserRegistered, SigningKeyPublished, OrderCreated, OrderCancelled)


def decider(settings: Settings) -> Decider[Billing]:
    return Decider(SERVICE, partial(decide, currency=settings.currency), evolve, react)


def service(settings: Settings) -> Service[Billing]:
    return Service(decider(settings), SHELVES, HEARS, Waiting("orders without an account", WITHOUT_ACCOUNT))


def build(settings: Settings) -> tuple[Runtime[Billing], FastAPI]:
    runtime = Runtime(service(settings), settings)
    return runtime, runtime.app(api.router(runtime))
