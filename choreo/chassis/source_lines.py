"""Which lines of a running program are a service's own."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import packages_distributions, requires
from itertools import groupby
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from choreo.message.catalog import FACT_OF_TYPE

_OTHERS = {"", "__main__", "choreo", *sys.stdlib_module_names}
"""Packages that are no service's."""


def raised_at(error: BaseException) -> str | None:
    """Returns the innermost line of a service's own code that the error came through."""
    return next(reversed(raised_through(error)), None)


def raised_through(error: BaseException) -> tuple[str, ...]:
    """Returns the lines of a service's own code that the error came through, from its handler inwards."""
    return _without_repeats(
        source_line(frame, line) for frame, line in walk_tb(error.__traceback__) if is_own(frame)
    )


def lines_to(frame: FrameType | None) -> tuple[str, ...]:
    """Returns the lines of a service's own code that lead to a frame, from its handler inwards."""
    own: list[FrameType] = []
    for one in _callers(frame):
        if own and _calls_handlers(one):
            break  # whoever called that is no handler, even if it is nobody's else: a test, say
        if is_own(one):
            own.append(one)
    return _without_repeats(source_line(one, one.f_lineno) for one in reversed(own))


def _calls_handlers(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module == "choreo.chassis.transaction.step" or module.startswith("choreo.replay.")


def _without_repeats(lines: Iterable[str]) -> tuple[str, ...]:
    """Leaves out what is where it was: a function that calls itself."""
    return tuple(line for line, _ in groupby(lines))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


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
    distributions = _distributions(tuple(sys.path)).get(package, [])
    needed = [one for name in distributions for one in requires(name) or ()]
    return not distributions or any(re.match("choreo[-_]kafka", one) for one in needed)


def read_installed() -> None:
    """Looks what is installed, as each process does once: for whoever forks, so that no fork has to."""
    _distributions(tuple(sys.path))


@cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, Sequence[str]]:
    """By package, on this path. Reads what says so of everything installed: once is enough."""
    return packages_distributions()


def source_line(frame: FrameType, line: int) -> str:
    """Names the file as an import would look for it: `order_service/decide.py:12`."""
    return f"{file_of_module(frame.f_globals['__name__'], frame.f_code.co_filename)}:{line}"


def file_of_module(module: str, filename: str) -> str:
    path = Path(filename)
    depth = module.count(".") + (2 if path.stem == "__init__" else 1)
    return str(Path(*path.parts[-depth:]))
