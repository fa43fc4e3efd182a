"""Which case of an `evolve` a fact came to."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from events.envelope import Event
from events.fact import Fact
from replay.guard import no_side_effects
from replay.places import _short, case_of


@cache
def _cases(code: CodeType) -> dict[int, str]:
    """The lines of a function where a case begins."""
    try:
        lines = Path(code.co_filename).read_text().splitlines()
    except OSError:
        return {}
    last = max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)
    numbered = enumerate(lines[code.co_firstlineno - 1 : last], start=code.co_firstlineno)
    return {number: line.strip() for number, line in numbered if line.strip().startswith("case ")}


def case_taken(evolve: Callable[[Any, Event[Fact]], Any], state: Any, event: Event[Fact]) -> str:
    """File and line. Where several cases are for this type, the function runs once more to see which."""
    code = evolve.__code__
    fitting = [number for number, line in _cases(code).items() if f"{event.type}(" in line]
    if len(fitting) > 1:
        seen: list[int] = []

        def watch(frame: FrameType, happened: str, _: Any) -> Any:
            if frame.f_code is code:
                seen.append(frame.f_lineno)
                return watch
            return None

        before = sys.gettrace()
        sys.settrace(watch)
        try:
            with no_side_effects():
                evolve(state, event)
        finally:
            sys.settrace(before)
        tried = [number for number in seen if number in fitting]
        return f"{_short(code.co_filename)}:{tried[-1]}" if tried else case_of(evolve, event.type) or ""
    return case_of(evolve, event.type) or ""
