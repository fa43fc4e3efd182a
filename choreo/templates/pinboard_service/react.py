"""Which facts move the service to decide something."""

from collections.abc import Sequence
from typing import assert_never

from choreo.message.envelope import Event
from choreo.templates.pinboard_events import PinboardNoted, PinboardOpened
from choreo.templates.pinboard_service.commands import OpenPinboard, Reactions
from choreo.templates.pinboard_service.evolve import Applied
from choreo.templates.pinboard_service.state import Pinboard
from events.user import UserRegistered


def react(event: Event[Applied], state: Pinboard) -> Sequence[Reactions]:
    match event.data:
        case UserRegistered(user_id=user_id):
            return [OpenPinboard(cause=event.cause, user_id=user_id)]
        case PinboardOpened() | PinboardNoted():
            return []
        case unknown:
            assert_never(unknown)
