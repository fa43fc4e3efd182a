"""Which facts move the order service to decide something: none yet."""

from collections.abc import Sequence

from events.decider import Command
from events.envelope import Event
from events.fact import Fact
from order_service.state import Orders


def react(event: Event[Fact], state: Orders) -> Sequence[Command]:
    return []
