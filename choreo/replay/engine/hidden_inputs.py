"""What a decision must not depend on, and where a handler reads it: clock, chance, environment, files.

Python reports its calls (`sys.setprofile`), so a read is found even where nothing came of it. What a C
extension reads by itself is not seen. Looking makes a step four times as long, so only the second replay does
it, and of a long log at a sample: see `Sample`.
"""

import _locale
import builtins
import datetime
import decimal
import grp
import linecache
import locale
import os
import platform
import pwd
import random
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from types import CodeType, FrameType, ModuleType
from typing import Any, TypeVar

from choreo.chassis.source_lines import is_own, lines_to

T = TypeVar("T")
Lines = tuple[str, ...]

_CLOCK = "reads the clock"
_ZONE = "reads the clock or the time zone"
_CHANCE = "asks for chance"
_PROCESS = "asks who runs it"
_MACHINE = "asks what it runs on"
_LOCALE = "reads the locale"
LOOKS = "looks at a file"
_MEMORY = "asks where something lies in memory"
_WAITS = "waits"

_NAMES: Mapping[tuple[ModuleType, str], str] = {
    (time, "time monotonic perf_counter process_time thread_time clock_gettime"): _CLOCK,
    (time, "time_ns monotonic_ns perf_counter_ns process_time_ns thread_time_ns clock_gettime_ns"): _CLOCK,
    (time, "localtime gmtime ctime asctime strftime mktime"): _ZONE,
    (time, "sleep"): _WAITS,
    (os, "urandom getrandom"): _CHANCE,
    (random, "random getrandbits"): _CHANCE,
    (uuid, "_generate_time_safe"): _CHANCE,
    (os, "getpid getppid getpgid getpgrp getsid getlogin getuid geteuid getgid getegid getgroups"): _PROCESS,
    (os, "getresuid getresgid getgrouplist getcwd getcwdb getpriority ttyname ctermid"): _PROCESS,
    (pwd, "getpwuid getpwnam getpwall"): _PROCESS,
    (grp, "getgrgid getgrnam getgrall"): _PROCESS,
    (resource, "getrusage getrlimit"): _PROCESS,
    (os, "uname cpu_count process_cpu_count sched_getaffinity getloadavg times sysconf confstr"): _MACHINE,
    (os, "get_terminal_size isatty statvfs fstatvfs"): _MACHINE,
    (_locale, "localeconv nl_langinfo getencoding strcoll strxfrm"): _LOCALE,
    (os, "stat lstat fstat access listdir scandir readlink read pread readv getxattr listxattr"): LOOKS,
    (builtins, "input"): "asks whoever sits there",
    (builtins, "id"): _MEMORY,
}
_BUILTIN: Mapping[Any, str] = {
    getattr(module, name): f"{says} ({module.__name__.lstrip('_')}.{name})"
    for (module, names), says in _NAMES.items()
    for name in names.split()
    if hasattr(module, name)
}
_OF_DATES = {
    "now": f"{_CLOCK} (datetime.now)",
    "utcnow": f"{_CLOCK} (datetime.utcnow)",
    "today": f"{_CLOCK} (date.today)",
}
"""Whatever class of dates is asked."""
_PYTHON_CODE: Mapping[CodeType, str] = {
    type(os.environ).__getitem__.__code__: "reads the environment (os.environ)",
    type(os.environ).__iter__.__code__: "reads the environment (os.environ)",
    platform.uname.__code__: f"{_MACHINE} (platform.uname)",
    random.Random.seed.__code__: _CHANCE,
    uuid.getnode.__code__: f"{_MACHINE} (uuid.getnode)",
    locale.getlocale.__code__: f"{_LOCALE} (locale.getlocale)",
    locale.format_string.__code__: f"{_LOCALE} (locale.format_string)",
    locale.getpreferredencoding.__code__: f"{_LOCALE} (locale.getpreferredencoding)",
}
_PYTHON = {id(code): says for code, says in _PYTHON_CODE.items()}
"""By identity: to hash code is to read all that it consists of."""


class Sample:
    """Chooses the steps that are looked at: all of a short log, and of a long one some of every kind."""

    def __init__(self) -> None:
        self._kinds: Counter[Hashable] = Counter()
        self._steps = 0

    def takes(self, kind: Hashable) -> bool:
        self._steps += 1
        self._kinds[kind] += 1
        number = self._kinds[kind]
        return self._steps <= _ALL_OF or number <= _FIRST_OF_KIND or number % _EVERY == 0


_ALL_OF = 5_000
_FIRST_OF_KIND = 50
_EVERY = 20


def is_import(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def is_pythons(frame: FrameType | None) -> bool:
    """Tells whether it is Python that looks, because it imports a library, or tells where a warning is."""
    while frame is not None and not is_own(frame):
        if is_import(frame) or frame.f_code.co_filename == linecache.__file__:
            return True
        frame = frame.f_back
    return False


def is_a_librarys(frame: FrameType | None) -> bool:
    """Tells whether a library looks, or choreo does for the service's settings; Python's own is none."""
    while frame is not None and not is_own(frame):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names or is_import(frame):
            return True
        frame = frame.f_back
    return frame is None


def watching_reads(
    run: Callable[[], T],
    note: Callable[[str, Lines], object],
    is_others: Callable[[FrameType], bool] = is_pythons,
) -> T:
    """Runs it, and notes each read with the own lines that lead there, but what is others' doing.

    And, as it is read by whoever calculates next, where the arithmetic of `decimal` was changed and left so.
    """
    context, changed = decimal.getcontext, Lines()
    prec, rounding = context().prec, context().rounding

    def watch(frame: FrameType, happened: str, called: Any) -> None:
        # As short as can be: it is called for all that Python does.
        nonlocal changed
        if happened == "call":
            what = _PYTHON.get(id(frame.f_code))
            if what is _CHANCE and not _is_chance(frame):
                return
        elif happened == "c_call":
            try:
                what = _BUILTIN.get(called)
            except TypeError:  # a method of what has no hash
                return
            if what is None and called.__name__ in _OF_DATES:
                what = _asked_of_dates(called)
        else:
            if happened == "return" and not changed:
                now = context()
                if now.prec != prec or now.rounding != rounding:
                    changed = lines_to(frame)
            return
        if what is not None and not is_others(frame) and (not what.startswith(_MEMORY) or is_own(frame)):
            note(what, lines_to(frame))

    sys.setprofile(watch)
    try:
        return run()
    finally:
        sys.setprofile(None)
        if changed and (context().prec, context().rounding) != (prec, rounding):
            note("changes how decimal calculates from now on", changed)


def _asked_of_dates(called: Any) -> str | None:
    asked = getattr(called, "__self__", None)
    return (
        _OF_DATES[called.__name__] if isinstance(asked, type) and issubclass(asked, datetime.date) else None
    )


def _is_chance(frame: FrameType) -> bool:
    """Tells whether a generator is made of what nobody gave a seed, or is the one that everybody shares."""
    given = frame.f_locals
    shared = given["self"] is random.random.__self__  # type: ignore[attr-defined]
    return shared or given.get("a") is None
