"""Which facts move the notification service to decide something: none. A worker mails, after commit."""

from collections.abc import Sequence

from events.decider import Command
from events.envelope import Event
from events.fact import Fact
from notification_service.state import Notifications


def react(event: Event[Fact], state: Notifications) -> Sequence[Command]:
    return []
