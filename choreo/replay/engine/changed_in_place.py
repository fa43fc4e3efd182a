"""Whether a handler changes the rows it was given, instead of returning others.

Nobody notices at once: what is changed in place is no change that would be saved, and lives on only while a
batch does. So live, a restart and a replay may each have another row.
"""

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from functools import cache
from types import FrameType, NoneType
from typing import Any
from uuid import UUID

from choreo.chassis.source_lines import is_own, lines_to
from choreo.replay.engine.in_memory_service import Taken

_UNCHANGING = frozenset({NoneType, bool, int, float, str, bytes, UUID, datetime})


def copied(value: Any) -> Any:
    """As `deepcopy`, which takes thirty times as long for a row: it takes ids and times to pieces."""
    kind: type = type(value)
    if kind in _UNCHANGING:
        return value
    if kind is dict:
        return {name: copied(one) for name, one in value.items()}
    if kind is list:
        return [copied(one) for one in value]
    names = _names_in_slots(kind)
    if names is None:
        return deepcopy(value)
    copy: Any = object.__new__(kind)
    for name in names:
        object.__setattr__(copy, name, copied(getattr(value, name)))
    return copy


@cache
def _names_in_slots(kind: type) -> tuple[str, ...] | None:
    """Returns the fields of a dataclass that has nothing beside them; None of anything else."""
    if not is_dataclass(kind) or kind.__dictoffset__:
        return None
    return tuple(field.name for field in fields(kind))


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
