"""Which facts move the order service to decide something: none yet."""

from collections.abc import Sequence

from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from order_service.state import Orders


def react(event: Event[Fact], state: Orders) -> Sequence[Command]:
    return []
