"""Which facts move the user service to decide something: none. It hears nobody."""

from collections.abc import Sequence

from events.decider import Command
from events.envelope import Event
from events.fact import Fact
from user_service.state import Users


def react(event: Event[Fact], state: Users) -> Sequence[Command]:
    return []
