"""What comes of a wish, given what is known. No clock, no chance, no I/O."""

from datetime import datetime
from typing import assert_never

from choreo.message.decider import Decision
from choreo.message.envelope import derived_id
from choreo.templates.pinboard_events import PinboardNoted, PinboardOpened
from choreo.templates.pinboard_service.commands import (
    Commands,
    NoPinboard,
    OpenPinboard,
    PinboardFull,
    PinNote,
    Reactions,
)
from choreo.templates.pinboard_service.state import Pinboard

SERVICE = "pinboard"
MOST_NOTES = 100
"""On a pinboard that is opened today."""


def decide(command: Commands | Reactions, state: Pinboard, now: datetime) -> Decision:
    board = state.board
    match command:
        case OpenPinboard():
            return [] if board else [PinboardOpened(user_id=command.user_id, most_notes=MOST_NOTES)]
        case PinNote() if board is None:
            return NoPinboard()
        case PinNote() if board.notes == board.most_notes:
            return PinboardFull(notes=board.notes)
        case PinNote():
            id = derived_id("pinboard", "note", command.cause.id)
            noted = PinboardNoted(
                note_id=id, user_id=command.user_id, text=command.text, notes=board.notes + 1
            )
            return [noted]
        case unknown:
            assert_never(unknown)
