"""The pinboard service: given these facts, when this is asked, then these facts."""

from choreo.chassis.transaction.step import Decider
from choreo.message.envelope import derived_id
from choreo.templates.pinboard_events import PinboardNoted, PinboardOpened
from choreo.templates.pinboard_service.commands import NoPinboard, PinboardFull, PinNote
from choreo.templates.pinboard_service.decide import MOST_NOTES, SERVICE, decide
from choreo.templates.pinboard_service.evolve import evolve
from choreo.templates.pinboard_service.react import react
from choreo.templates.pinboard_service.state import Pinboard
from tests.unit.facts import ADA, registered
from tests.unit.spec import Spec, request

pinboard = Spec(Decider(SERVICE, decide, evolve, react), Pinboard())
opened = PinboardOpened(user_id=ADA, most_notes=MOST_NOTES)
NOTE = derived_id("pinboard", "note", request().id)


def pin(text: str) -> PinNote:
    return PinNote(cause=request(), user_id=ADA, text=text)


def noted(notes: int) -> PinboardNoted:
    return PinboardNoted(note_id=NOTE, user_id=ADA, text="Strings", notes=notes)


def test_it_comes_into_being_with_the_registration_and_once() -> None:
    pinboard.heard(registered).then(opened)
    pinboard.given(registered, opened).heard(registered).then_nothing()


def test_a_note_is_counted_and_kept() -> None:
    spec = pinboard.given(registered, opened).when(pin("Strings")).then(noted(1))
    assert spec.state.board is not None and spec.state.board.notes == 1
    assert [note.text for note in spec.state.notes.values()] == ["Strings"]


def test_nothing_is_pinned_to_what_is_not_there() -> None:
    pinboard.when(pin("Strings")).then_refused(NoPinboard())


def test_it_may_be_full() -> None:
    full = pinboard.given(registered, opened, noted(MOST_NOTES))
    full.when(pin("Strings")).then_refused(PinboardFull(notes=MOST_NOTES))
