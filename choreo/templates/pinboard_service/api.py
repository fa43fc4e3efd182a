"""HTTP in, command out; and what there is, read from its tables."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from choreo.chassis.http.answer import Answer
from choreo.chassis.http.body import Body
from choreo.chassis.http.pages import Page
from choreo.chassis.http.problems import Problem, not_there_yet
from choreo.chassis.http.routes import KeyedCause, Paging, Router, User, example, problem
from choreo.chassis.runtime import Runtime
from choreo.chassis.transaction.inputs import Decided
from choreo.templates.pinboard_events import PinboardNoted
from choreo.templates.pinboard_service import queries
from choreo.templates.pinboard_service.commands import NoPinboard, PinboardFull, PinNote
from choreo.templates.pinboard_service.state import Pinboard

ID = "5b0b1b0c-3f0f-5d36-b9d7-2f8ea2f4c8d1"


class NewNote(Body):
    model_config = example(text="Strings for the violin")

    text: Annotated[str, Field(min_length=1, max_length=200)]


class BoardView(BaseModel):
    model_config = example(notes=1, opened_at="2026-11-23T12:00:00.120000Z")

    notes: int
    opened_at: datetime


class NoteView(BaseModel):
    model_config = example(id=ID, text="Strings for the violin", at="2026-11-23T12:00:02.340000Z")

    id: UUID
    text: str
    at: datetime


class PinnedView(BaseModel):
    model_config = example(id=ID, notes=1)

    id: UUID
    notes: int


def router(runtime: Runtime[Pinboard]) -> Router:
    routes = Router()

    @routes.get("/pinboard", responses={404: problem("not there yet", "Retry-After")})
    async def board(user: User) -> BoardView:
        """The user's pinboard. It comes into being by itself, soon after the registration."""
        row = await queries.board_of(runtime.engine, user.user_id)
        if row is None:
            raise _not_yet()
        return BoardView.model_validate(row, from_attributes=True)

    @routes.get("/pinboard/notes")
    async def notes(user: User, page: Paging) -> Page[NoteView]:
        """Every note, newest first."""
        rows = await queries.notes_of(runtime.engine, user.user_id, page)
        return page.page(
            rows,
            item=lambda row: NoteView.model_validate(row, from_attributes=True),
            sequence=lambda row: row.step,
        )

    @routes.post(
        "/pinboard/notes",
        status_code=201,
        response_model=PinnedView,
        responses={404: problem("not there yet", "Retry-After"), 409: problem("full, with `notes`")},
    )
    async def pin(user: User, cause: KeyedCause, note: NewNote) -> Answer:
        """Pins a note."""
        command = PinNote(cause=cause, user_id=user.user_id, text=note.text)
        return await runtime.ask(command, _pinned, body=note)

    return routes


def _pinned(decided: Decided) -> Answer:
    match decided.refusal:
        case NoPinboard():
            return _not_yet().answer()
        case PinboardFull(notes):
            return Problem(409, "pinboard_full", "There is no room for another note.", notes=notes).answer()
    (event,) = decided.events
    assert isinstance(event.data, PinboardNoted)
    return Answer.json(201, PinnedView(id=event.data.note_id, notes=event.data.notes))


def _not_yet() -> Problem:
    return not_there_yet("There is no pinboard yet. It comes into being soon after the registration.")
