"""Which facts move the notification service to decide something: none. A worker mails, after commit."""

from collections.abc import Sequence

from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from notification_service.state import Notifications


def react(event: Event[Fact], state: Notifications) -> Sequence[Command]:
    return []
