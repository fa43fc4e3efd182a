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
    assert held_back.pause is None
    assert held_back.cause is None
    held_back.hold_up({"one": "is locked", "other": "is locked"})
    now[0] += FIRST_PAUSE_SECONDS
    assert held_back.due() == ["other"]


KEYS = "one", "other"
PLACES = ("billing-events", 0), ("billing-events", 1)
NAMES = (*KEYS, *PLACES)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(PLACES)), min_size=1, max_size=5),
    st.lists(st.frozensets(st.sampled_from(NAMES)), max_size=4),
    st.floats(0.0, FIRST_PAUSE_SECONDS),
)
def test_whatever_is_locked_and_for_how_long_all_are_let_go_in_order_and_nobody_asks_without_a_pause(
    keys_and_places: list[tuple[str, Any]], locked_then: list[frozenset[Any]], moment: float
) -> None:
    """Turn by turn, as the kernel does it, which asks the database once for each. A moment passes whenever
    somebody looks at the clock.
    """
    now = [0.0]

    def clock() -> float:
        now[0] += moment / 8
        return now[0]

    held_back = HeldBack(clock)
    queue = [_heard(key, place, offset) for offset, (key, place) in enumerate(keys_and_places)]
    done: list[Heard] = []
    tried = 0
    while queue or len(held_back):
        tried += 1
        assert tried < 100, "somebody waits for what never comes"
        locked = locked_then.pop() if locked_then else frozenset()
        if due := held_back.due():
            held_back.hold_up({name: "is locked" for name in due if name in locked})
            queue = cast(list[Heard], held_back.release()) + queue
        batch = [input for input in queue if not held_back.takes(input)]
        queue = []
        if stuck := [name for input in batch for name in (input.key, _place(input)) if name in locked]:
            held_back.hold_up(dict.fromkeys(stuck, "is locked"))
            batch = [input for input in batch if not held_back.takes(input)]
        done += batch
        held_back.free(name for input in batch for name in (input.key, _place(input)))
        if not batch and len(held_back):
            pause = held_back.pause
            assert pause is not None
            assert pause > 0.0 or held_back.due()
            now[0] += pause
    for place in PLACES:
        offsets = [input.offset for input in done if _place(input) == place]
        assert offsets == sorted(offsets)
    assert held_back.cause is None


def test_who_failed_goes_before_whoever_of_his_partition_was_held_meanwhile() -> None:
    now = [0.0]
    held_back = HeldBack(lambda: now[0])
    first, second = _heard("one", PLACES[0], 5), _heard("other", PLACES[0], 6)
    held_back.hold_up({"other": "is locked"})
    assert [held_back.takes(first), held_back.takes(second)] == [False, True]
    held_back.hold_up({"one": "is locked"})
    assert held_back.takes(first)
    now[0] = FIRST_PAUSE_SECONDS
    assert held_back.release() == [first, second]


def _place(heard: Heard) -> tuple[str, int]:
    return heard.topic, heard.partition


def _heard(key: str, place: tuple[str, int], offset: int) -> Heard:
    record, done = Record(key.encode(), b"no event", []), SimpleNamespace(done=lambda: False)
    return Heard(*place, offset, record, None, "no event", datetime.now(UTC), cast(Any, done))
