"""Which rows a batch needs, and where they are kept."""

from choreo.chassis.transaction.state_store import StateStore, TableMapping
from choreo.templates.pinboard_service.state import Board, Note, Pinboard
from choreo.templates.pinboard_service.tables import boards, notes

STORE = StateStore(
    Pinboard,
    (
        TableMapping("board", boards, Board, key="user_id", single=True, loaded_with_key={}),
        TableMapping("notes", notes, Note, key="user_id"),
    ),
)
