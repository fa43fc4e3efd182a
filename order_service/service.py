"""The order service as the chassis needs to know it, with nothing that runs."""

from datetime import timedelta
from functools import partial

from pydantic import Field

from choreo.chassis.service import End, Id, Service, Waiting
from choreo.chassis.settings import OwnSettings, Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from order_service.commands import Commands
from order_service.decide import SERVICE, decide
from order_service.evolve import Consumed, evolve
from order_service.queries import BY_ID, UNDECIDED
from order_service.state import Order, Orders
from order_service.store import STORE


def _value(order: Order) -> str:
    return f"{order.status} ({order.reason})" if order.reason else order.status


class OrderSettings(OwnSettings):
    decide_within: float = Field(
        30, ge=0.01, allow_inf_nan=False, description="seconds until an undecided order is cancelled"
    )


def decider(settings: Settings) -> Decider[Orders]:
    return Decider(SERVICE, partial(decide, deadline=deadline(settings)), evolve)


def deadline(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.own_of(SERVICE, OrderSettings).decide_within)


def service(settings: Settings) -> Service[Orders]:
    waiting = Waiting("undecided orders", UNDECIDED)
    return Service(
        decider(settings),
        STORE,
        types_of(Consumed),
        types_of(Commands),
        waiting,
        ids=(Id("order", BY_ID, in_commands="order_id"),),
        ends={"orders": End(("status", "reason"), lambda order: f"order {order.id}", _value)},
        settings=settings.own_of(SERVICE, OrderSettings),
        port_offset=2,
    )
