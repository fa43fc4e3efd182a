"""How facts change what the service knows. Live handling and replay run these same lines."""

from dataclasses import replace
from typing import assert_never

from choreo.message.envelope import Event
from choreo.templates.pinboard_events import PinboardFact, PinboardNoted, PinboardOpened
from choreo.templates.pinboard_service.state import Board, Note, Pinboard
from events.user import UserRegistered

Consumed = UserRegistered
Applied = Consumed | PinboardFact


def evolve(state: Pinboard, event: Event[Applied]) -> Pinboard:
    match event.data:
        case UserRegistered():
            return state  # what follows from it is decided, and that is kept
        case PinboardOpened() as fact:
            return replace(
                state,
                board=Board(user_id=fact.user_id, notes=0, most_notes=fact.most_notes, opened_at=event.time),
            )
        case PinboardNoted() as fact:
            assert state.board is not None, f"{event.type} {event.id} is of a user without a pinboard"
            note = Note(
                id=fact.note_id,
                user_id=fact.user_id,
                text=fact.text,
                at=event.time,
                step=event.applied_sequence,
            )
            board = replace(state.board, notes=fact.notes)
            return replace(state, board=board, notes={**state.notes, note.id: note})
        case unknown:
            assert_never(unknown)
