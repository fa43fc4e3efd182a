"""Which line of a service's code decided something: found by taking the step once more, and watching."""

import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from choreo.chassis.transaction import step as kernel_step
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.fact import Fact
from choreo.replay.engine.in_memory_service import Taken

_OTHERS = {"", "__main__", "choreo", *sys.stdlib_module_names}
"""Packages that are no service's."""
_STEP = kernel_step.__file__


def decided_at(taken: Taken[Any], fact: Fact | None) -> str | None:
    """Returns file and line that gave this fact; without a fact, those of the last handler's answer.

    Returns None where no handler ran.
    """
    gave: list[str] = []
    answers: dict[str, str] = {}
    returned: list[tuple[Any, str]] = []

    def watch(frame: FrameType, happened: str, value: Any) -> None:
        if happened != "return" or not is_own(frame):
            return
        line = source_line(frame, frame.f_lineno)
        if fact is not None and (value == fact if isinstance(value, Fact) else _is_in(fact, value)):
            gave.append(line)
        returned.append((value, line))
        if frame.f_back is not None and frame.f_back.f_code.co_filename == _STEP:
            answers[frame.f_code.co_name] = next(line for other, line in returned if other is value)
            returned.clear()

    _watched(taken.run, watch)
    if gave:
        return gave[0]
    return answers.get("decide") or next(reversed(answers.values()), None)


def raised_at(error: BaseException) -> str | None:
    """Returns the innermost line of a service's own code that the error came through."""
    own = [(frame, line) for frame, line in walk_tb(error.__traceback__) if is_own(frame)]
    return source_line(*own[-1]) if own else None


def is_own(frame: FrameType) -> bool:
    """Tells whether its code is a service's: not choreo's, Python's or another package's, and no fact's."""
    generated = frame.f_code.co_filename.startswith("<")  # as what a dataclass is made of
    return not generated and _is_own(frame.f_globals.get("__name__", ""))


@cache
def _is_own(module: str) -> bool:
    """A package is a service's if it was not installed, or if what installed it requires choreo."""
    package = module.partition(".")[0]
    if package in _OTHERS or any(fact.__module__ == module for fact in FACT_OF_TYPE.values()):
        return False
    distributions = packages_distributions().get(package, [])
    needed = [one for name in distributions for one in requires(name) or ()]
    return not distributions or any(re.match("choreo[-_]kafka", one) for one in needed)


def source_line(frame: FrameType, line: int) -> str:
    """Names the file as an import would look for it: `order_service/decide.py:12`."""
    return f"{file_of_module(frame.f_globals['__name__'], frame.f_code.co_filename)}:{line}"


def file_of_module(module: str, filename: str) -> str:
    path = Path(filename)
    depth = module.count(".") + (2 if path.stem == "__init__" else 1)
    return str(Path(*path.parts[-depth:]))


def _watched(run: Callable[[], object], watch: Callable[[FrameType, str, Any], None]) -> None:
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    except Exception:  # it is told elsewhere what it raised
        pass
    finally:
        sys.setprofile(before)


def _is_in(fact: Fact, value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, Fact) and one == fact for one in value)
