"""Which case of an `evolve` a fact came to, and which line made a row of it."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from choreo.chassis.source_lines import file_of_module, lines_to
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.sandbox import no_side_effects

Evolve = Callable[[Any, Event[Fact]], Any]


def case_taken(evolve: Evolve, state: Any, event: Event[Fact]) -> str:
    """Returns file and line. Where several cases fit, the function runs once more to see which."""
    only = _only_case(evolve, event.type)
    if only is not None:
        return only
    fitting = _cases(evolve.__code__, event.type)
    tried = [line for line in _lines_of(evolve, state, event) if line in fitting]
    return _source_line(evolve, tried[-1])


@cache
def _only_case(evolve: Evolve, type_: str) -> str | None:
    """Returns None where several fit."""
    return None if len(_cases(evolve.__code__, type_)) > 1 else case_of(evolve, type_)


def written_through(evolve: Evolve, state: Any, event: Event[Fact], row: Any) -> tuple[str, ...]:
    """Returns the own lines from `evolve` to where this row was made; the case, where it made none."""
    made: list[tuple[str, ...]] = []

    def watch(frame: FrameType, happened: str, _: Any) -> None:
        if not made and happened == "return" and frame.f_code.co_name == "__init__":
            one = frame.f_locals.get("self")
            if type(one) is type(row) and one == row:
                made.append(lines_to(frame))

    before = sys.getprofile()
    with no_side_effects():
        sys.setprofile(watch)
        try:
            evolve(state, event)
        finally:
            sys.setprofile(before)
    return made[0] if made and made[0] else (case_taken(evolve, state, event),)


def case_of(function: Callable[..., Any], type_: str) -> str:
    """Returns file and line where a handler's first case for facts of this type begins."""
    code = function.__code__
    fitting = _cases(code, type_)
    return _source_line(function, fitting[0] if fitting else code.co_firstlineno)


@cache
def _cases(code: CodeType, type_: str) -> tuple[int, ...]:
    """Returns the lines of a function where a case for this type begins."""
    try:
        lines = Path(code.co_filename).read_text().splitlines()
    except OSError:
        return ()
    own = sorted({line for _, _, line in code.co_lines() if line})
    return tuple(
        number
        for number in own
        if lines[number - 1].strip().startswith("case ") and f"{type_}(" in lines[number - 1]
    )


@cache
def _source_line(function: Callable[..., Any], line: int) -> str:
    return f"{file_of_module(function.__globals__['__name__'], function.__code__.co_filename)}:{line}"


def _lines_of(evolve: Evolve, state: Any, event: Event[Fact]) -> list[int]:
    """Runs the function; returns its lines that run, in order."""
    seen: list[int] = []

    def watch(frame: FrameType, happened: str, _: Any) -> Any:
        if frame.f_code is not evolve.__code__:
            return None
        seen.append(frame.f_lineno)
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        with no_side_effects():
            evolve(state, event)
    finally:
        sys.settrace(before)
    return seen
