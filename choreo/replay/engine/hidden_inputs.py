"""What a decision must not depend on, and where a handler reads it: clock, chance, environment, files.

Python reports its calls (`sys.setprofile`), so a read is found even where nothing came of it. What a C
extension reads by itself is not seen. Looking makes a step four times as long, so only the second replay does
it, and of a long log at a sample: see `Sample`.
"""

import datetime
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from types import CodeType, FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_CLOCK = "reads the clock"
_CHANCE = "asks for chance"
_PROCESS = "asks who runs it"

_BUILTIN: Mapping[Any, str] = {
    **{
        getattr(time, name): f"{_CLOCK} (time.{name})"
        for name in (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
            *("process_time", "process_time_ns", "thread_time", "thread_time_ns"),
            *("localtime", "ctime", "strftime", "clock_gettime", "clock_gettime_ns"),
        )
    },
    datetime.datetime.now: f"{_CLOCK} (datetime.now)",
    datetime.datetime.utcnow: f"{_CLOCK} (datetime.utcnow)",
    datetime.datetime.today: f"{_CLOCK} (datetime.today)",
    datetime.date.today: f"{_CLOCK} (date.today)",
    os.urandom: f"{_CHANCE} (os.urandom)",
    random.random: f"{_CHANCE} (random.random)",
    random.getrandbits: f"{_CHANCE} (random)",
    os.getpid: f"{_PROCESS} (os.getpid)",
    os.getcwd: f"{_PROCESS} (os.getcwd)",
    os.uname: f"{_PROCESS} (os.uname)",
}
_PYTHON: Mapping[CodeType, str] = {
    type(os.environ).__getitem__.__code__: "reads the environment (os.environ)",
    type(os.environ).__iter__.__code__: "reads the environment (os.environ)",
}


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


def watching_reads(run: Callable[[], T], note: Callable[[str, FrameType], object]) -> T:
    """Runs it, and notes each read with the frame that asks."""

    def watch(frame: FrameType, happened: str, called: Any) -> None:
        if happened == "call":
            if (what := _PYTHON.get(frame.f_code)) is not None:
                note(what, frame)
        elif happened == "c_call":
            try:
                what = _BUILTIN.get(called)
            except TypeError:  # a method of what has no hash
                return
            if what is not None:
                note(what, frame)

    sys.setprofile(watch)
    try:
        return run()
    finally:
        sys.setprofile(None)
