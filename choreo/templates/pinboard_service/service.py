"""The pinboard service as everybody else needs to know it, with nothing that runs."""

from choreo.chassis.service import End, Follow, Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import types_of
from choreo.message.envelope import derived_id
from choreo.templates.pinboard_events import PinboardNoted, PinboardOpened
from choreo.templates.pinboard_service.commands import Commands
from choreo.templates.pinboard_service.decide import SERVICE, decide
from choreo.templates.pinboard_service.evolve import Consumed, evolve
from choreo.templates.pinboard_service.react import react
from choreo.templates.pinboard_service.state import Pinboard
from choreo.templates.pinboard_service.store import STORE
from events.user import UserRegistered

_SOMEBODY, _NOTE = derived_id("example", "pinboard"), derived_id("example", "note")


def service(settings: Settings) -> Service[Pinboard]:
    return Service(
        Decider(SERVICE, decide, evolve, react),
        STORE,
        types_of(Consumed),
        types_of(Commands),
        follows=(Follow(UserRegistered, (PinboardOpened,)),),
        ends={"boards": End(("notes",))},
        examples=(
            PinboardOpened(user_id=_SOMEBODY, most_notes=100),
            PinboardNoted(note_id=_NOTE, user_id=_SOMEBODY, text="Strings for the violin", notes=1),
        ),
        port_offset=24,
    )
