"""While a handler is replayed it can reach nothing outside: whoever tries is told where.

Python itself reports what is about to be opened (PEP 578). That stops mistakes, and is no prison: a C library
that opens something by itself reports nothing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from choreo.chassis.transaction.step import Outcome
from choreo.replay.engine.in_memory_service import S, Taken
from choreo.replay.engine.source_lines import is_own, source_line

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ATTEMPTS = {
    "socket.": "open a socket",
    "subprocess.": "start a process",
    "os.system": "start a process",
    "os.exec": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.fork": "start a process",
    "os.kill": "send a signal",
    "_thread.start_new_thread": "start a thread",
    "ctypes.dlopen": "load a library",
    "sqlite3.connect": "open a database",
    "os.remove": "remove a file",
    "os.rmdir": "remove a directory",
    "os.rename": "rename a file",
    "os.mkdir": "make a directory",
    "os.link": "link a file",
    "os.symlink": "link a file",
    "os.truncate": "write a file",
    "os.chmod": "change a file",
    "os.chown": "change a file",
    "os.utime": "change a file",
}
"""By the beginning of the name of Python's audit event."""


class SideEffect(Exception):
    """A handler tried to do something. The message is a sentence."""


class _Watch:
    """The one audit hook. Python cannot take it back, so most of the time it is off."""

    def __init__(self) -> None:
        self.on = self._installed = False
        self.refused: SideEffect | None = None
        self._what = ""

    def begin(self, what: str) -> None:
        self._what = what
        if not self._installed:
            sys.addaudithook(self._hook)
            self._installed = True
        self.on, self.refused = True, None

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        attempt = _attempt(name, args)
        if attempt is None:
            return
        self.on = False  # what is looked at now is our own doing
        refused = SideEffect(f"{self._what or _handler()} tries to {attempt}: a replay has no side effects.")
        self.refused = self.refused or refused
        self.on = True
        raise refused


_watch = _Watch()


@contextmanager
def no_side_effects(what: str = "") -> Iterator[None]:
    """Refuses side effects in the block: raises `SideEffect`, even if the handler catches it. `what` names
    what runs there; of a handler its line is told.

    For plain code: no await within.
    """
    _watch.begin(what)
    try:
        yield
    finally:
        _watch.on = False
        if _watch.refused is not None:
            raise _watch.refused


def run_sandboxed(taken: Taken[S]) -> Outcome[S] | Exception:
    """Takes a step: returns its outcome, or what a handler raises. Raises `SideEffect`."""
    try:
        with no_side_effects():
            return taken.run()
    except SideEffect:
        raise
    except Exception as error:
        return error


def _attempt(name: str, args: tuple[Any, ...]) -> str | None:
    if name == "open":
        path, _, flags = args
        if flags & _WRITING and not _is_importing():
            return f"write the file {path}"
        return None
    found = next((what for beginning, what in _ATTEMPTS.items() if name.startswith(beginning)), None)
    return f"{found} ({name})" if found else None


def _is_importing() -> bool:
    """Tells whether Python writes what it has compiled."""
    return sys._getframe(3).f_code.co_filename.startswith("<frozen importlib")


def _handler() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and not is_own(frame):
        frame = frame.f_back
    return source_line(frame, frame.f_lineno) if is_own(frame) else "a handler"
