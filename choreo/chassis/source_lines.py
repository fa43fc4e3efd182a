"""Which lines of a running program are a service's own."""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
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
    for one in callers(frame):
        if own and _calls_handlers(one):
            break  # whoever called that is no handler, even if it is nobody's else: a test, say
        if is_own(one):
            own.append(one)
    return _without_repeats(source_line(one, one.f_lineno) for one in reversed(own))


def _calls_handlers(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module == "choreo.chassis.transaction.step" or module.startswith("choreo.replay.")


def _without_repeats(lines: Iterable[str]) -> tuple[str, ...]:
    """Leaves out what is where it was: functions that call themselves, or each other. The last one stays."""
    all = list(lines)
    each = list(dict.fromkeys(all))
    return tuple(each if all[-1:] == each[-1:] else [*each, all[-1]])


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_own(frame: FrameType) -> bool:
    """Tells whether its code is a service's: not choreo's, Python's or another package's, and no fact's."""
    generated = frame.f_code.co_filename.startswith("<")  # as what a dataclass is made of
    module = frame.f_globals.get("__name__", "")
    return not generated and _is_own(module) and not _is_of_facts(module, len(FACT_OF_TYPE))


def is_shared(frame: FrameType) -> bool:
    """Tells whether its code is of the facts that services share: nobody's own, and no library's."""
    return _is_of_facts(frame.f_globals.get("__name__", ""), len(FACT_OF_TYPE))


@cache
def _is_of_facts(module: str, known: int) -> bool:
    """`known`: how many facts there are by now."""
    return any(fact.__module__ == module for fact in FACT_OF_TYPE.values())


@cache
def _is_own(module: str) -> bool:
    package = module.partition(".")[0]
    return package not in _OTHERS and package not in _libraries(tuple(sys.path))


def of_nobody_else(module: str) -> bool:
    """Tells whether nobody installed it: a service of this tree, or a helper beside it, and no facts."""
    return _is_own(module) and not _is_of_facts(module, len(FACT_OF_TYPE))


def read_installed() -> None:
    """Looks what is installed, as each process does once: for whoever forks, so that no fork has to."""
    _libraries(tuple(sys.path))


@cache
def _libraries(path: tuple[str, ...]) -> frozenset[str]:
    """Packages on this path that were installed, by what does not require choreo: what does is a service.

    Reads what says so of everything installed: once is enough.
    """
    installed = packages_distributions()
    needed = {name: requires(name) or () for name in {name for names in installed.values() for name in names}}
    choreos = {name for name, all in needed.items() if any(re.match("choreo[-_]kafka", one) for one in all)}
    return frozenset(package for package, names in installed.items() if not choreos.intersection(names))


def source_line(frame: FrameType, line: int) -> str:
    """Names the file as an import would look for it: `order_service/decide.py:12`."""
    return f"{file_of_module(frame.f_globals['__name__'], frame.f_code.co_filename)}:{line}"


def file_of_module(module: str, filename: str) -> str:
    path = Path(filename)
    depth = module.count(".") + (2 if path.stem == "__init__" else 1)
    return str(Path(*path.parts[-depth:]))
