"""Which facts move the user service to decide something: none. It hears nobody."""

from collections.abc import Sequence

from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from user_service.state import Users


def react(event: Event[Fact], state: Users) -> Sequence[Command]:
    return []
