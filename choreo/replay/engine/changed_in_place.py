"""Whether a handler changes the rows it was given, instead of returning others.

Nobody notices at once: what is changed in place is no change that would be saved, and lives on only while a
batch does. So live, a restart and a replay may each have another row.
"""

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from types import FrameType
from typing import Any

from choreo.chassis.source_lines import is_own, lines_to
from choreo.replay.engine.in_memory_service import Taken


def changed_fields(before: Any, state: Any) -> tuple[str, ...]:
    """Returns the fields of a state that are not as in this earlier copy of it."""
    names = (field.name for field in fields(before))
    return tuple(name for name in names if getattr(before, name) != getattr(state, name))


def place_of_change(taken: Taken[Any], before: Any) -> tuple[str, ...]:
    """Takes the step once more, from a copy of the state. Returns the own lines that lead to the change."""
    state = deepcopy(before)
    last: tuple[str, ...] = ()
    found: list[tuple[str, ...]] = []

    def watch(frame: FrameType, happened: str, _: Any) -> Callable[..., Any] | None:
        nonlocal last
        if not is_own(frame):
            return None
        if not found and changed_fields(before, state):
            found.append(last)
        last = lines_to(frame)
        return watch

    traced = sys.gettrace()
    sys.settrace(watch)
    try:
        replace(taken, state=state, trail=[]).run()
    except Exception:  # it is told elsewhere what it raises
        pass
    finally:
        sys.settrace(traced)
    return found[0] if found else last
