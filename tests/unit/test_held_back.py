"""What somebody else has locked is tried again for those who wait for it, and for nobody else."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from choreo.chassis.transaction.held_back import FIRST_PAUSE_SECONDS, HeldBack
from choreo.chassis.transaction.inputs import Heard
from choreo.message.codec import Record


def _input(key: str, *, is_done: bool) -> Any:
    return cast(Any, SimpleNamespace(keys=frozenset({key}), done=SimpleNamespace(done=lambda: is_done)))


def test_what_nobody_waits_for_any_more_is_forgotten() -> None:
    """Else it would be due for ever, and the database asked for it without a pause."""
    now = [0.0]
    held_back = HeldBack(lambda: now[0])
    waits, given_up = _input("one", is_done=False), _input("other", is_done=True)
    held_back.hold_up({"one": "is locked", "other": "is locked"})
    assert held_back.takes(waits)
    assert held_back.takes(given_up)
    now[0] = FIRST_PAUSE_SECONDS
    assert held_back.due() == ["one", "other"]
    assert held_back.release() == [waits]
    assert held_back.due() == ["one"]
    held_back.free(["one"])
    assert held_back.pause is None
    assert held_back.cause is None


KEYS = "one", "other"
PLACES = ("billing-events", 0), ("billing-events", 1)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(PLACES)), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from((*KEYS, *PLACES)), st.integers(0, 3)), min_size=1, max_size=4),
)
def test_once_all_that_is_due_was_tried_whoever_is_held_still_has_something_to_wait_for(
    heard: list[tuple[str, Any]], locked: list[tuple[Any, int]]
) -> None:
    """Else the database would be asked again and again, without a pause, until the rest is due."""
    now = [0.0]
    held_back = HeldBack(lambda: now[0])
    for name, quarters in locked:  # at one moment after the other, and some of them again and again
        now[0] += quarters * FIRST_PAUSE_SECONDS
        held_back.hold_up({name: "is locked"})
    waiting = [_heard(*one) for one in heard]
    for _ in range(100):
        if held_back.due():
            waiting = cast(list[Heard], held_back.release()) + waiting
        waiting = [input for input in waiting if held_back.takes(input)]
        if not waiting:
            break
        assert held_back.pause
        now[0] += held_back.pause
        waiting.clear()  # they are held
    assert not len(held_back)


def _heard(key: str, place: tuple[str, int]) -> Heard:
    record = Record(key.encode(), b"no event", [])
    return Heard(
        *place, 0, record, None, "no event", datetime.now(UTC), cast(Any, SimpleNamespace(done=lambda: False))
    )
