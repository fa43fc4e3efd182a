"""Which lines of a service's code decided something: found by taking the step once more, and watching."""

import sys
from collections.abc import Callable
from itertools import takewhile
from types import FrameType
from typing import Any

from choreo.chassis.source_lines import is_own, lines_to, source_line
from choreo.chassis.transaction import step as kernel_step
from choreo.message.fact import Fact
from choreo.replay.engine.in_memory_service import Taken
from choreo.replay.engine.sandbox import watched

_STEP = kernel_step.__file__
_LONGEST_PATH = 10_000
Lines = tuple[str, ...]
"""File and line of each own frame, from the handler inwards."""


def decided_at(taken: Taken[Any], fact: Fact | None) -> str | None:
    """Returns file and line that gave this fact; without a fact, those of the last handler's answer.

    Returns None where no handler ran.
    """
    return next(reversed(decided_through(taken, fact)), None)


def decided_through(taken: Taken[Any], fact: Fact | None) -> Lines:
    """Returns the lines from the handler to the one that gave this fact, or its last answer."""
    gave: list[Lines] = []
    answers: dict[str, Lines] = {}
    returned: list[tuple[Any, Lines]] = []

    def watch(frame: FrameType, happened: str, value: Any) -> None:
        if happened != "return" or not is_own(frame):
            return
        lines = lines_to(frame)
        if fact is not None and (value == fact if isinstance(value, Fact) else _is_in(fact, value)):
            gave.append(lines)
        returned.append((value, lines))
        if frame.f_back is not None and frame.f_back.f_code.co_filename == _STEP:
            answers[frame.f_code.co_name] = next(lines for other, lines in returned if other is value)
            returned.clear()

    _run(taken, watch)
    if gave:
        return gave[0]
    return answers.get("decide") or next(reversed(answers.values()), ())


def path_of(taken: Taken[Any]) -> Lines:
    """Returns every own line that the step runs, in order, up to a bound."""
    ran: list[str] = []

    def watch(frame: FrameType, happened: str, _: Any) -> Callable[..., Any] | None:
        if not is_own(frame) or len(ran) >= _LONGEST_PATH:
            return None
        if happened == "line":
            ran.append(source_line(frame, frame.f_lineno))
        return watch

    def traced() -> None:
        before = sys.gettrace()
        sys.settrace(watch)
        try:
            taken.run()
        finally:
            sys.settrace(before)

    watched(traced)
    return tuple(ran)


def parting(one: Lines, other: Lines) -> str:
    """Says where two runs of one step go apart: the last line they share, and the first they do not.

    Empty where both ran the same lines, or nobody knows of one.
    """
    if one == other or not (one and other):
        return ""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    before = one[shared - 1] if shared else "the beginning"
    here, there = ((*path, "the end")[shared] for path in (one, other))
    return f"{before} leads to {here} in one replay, and to {there} in the other"


def _run(taken: Taken[Any], watch: Callable[[FrameType, str, Any], None]) -> None:
    """Takes the step. Whatever it raises or tries is told elsewhere."""
    before = sys.getprofile()

    def profiled() -> None:
        sys.setprofile(watch)
        try:
            taken.run()
        finally:
            sys.setprofile(before)

    watched(profiled)


def _is_in(fact: Fact, value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, Fact) and one == fact for one in value)
