"""An order is always taken. Whether it is paid is for billing to decide."""

from datetime import datetime, timedelta

from events.decider import Command, Decision
from events.order import OrderCreated
from order_service.commands import PlaceOrder
from order_service.state import Orders

SERVICE = "order"


def decide(command: Command, state: Orders, now: datetime, *, deadline: timedelta) -> Decision:
    """`deadline` is how long an order may stay undecided."""
    match command:
        case PlaceOrder():
            return [_created(command, decide_by=now + deadline)]
    raise TypeError(f"the order service cannot decide {command!r}")


def _created(command: PlaceOrder, decide_by: datetime) -> OrderCreated:
    return OrderCreated(
        order_id=command.order_id,
        user_id=command.user_id,
        price=command.price,
        description=command.description,
        decide_by=decide_by,
    )
