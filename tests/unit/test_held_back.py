"""What somebody else has locked is tried again for those who wait for it, and for nobody else."""

from types import SimpleNamespace
from typing import Any, cast

from choreo.chassis.transaction.held_back import FIRST_PAUSE_SECONDS, HeldBack


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
