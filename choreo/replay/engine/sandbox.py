"""While a handler is replayed it can reach nothing outside: whoever tries is told where.

Python itself reports what is about to be opened (PEP 578). That stops mistakes, and is no prison: a C library
that opens something by itself reports nothing. What is printed meanwhile is kept, so that the output is the
verb's own, and a step that does not end is ended.
"""

import _thread
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any, Generic, TypeVar

from choreo.chassis.source_lines import lines_to
from choreo.chassis.transaction.step import Outcome
from choreo.errors import HandlerMisbehaves
from choreo.message.envelope import Event
from choreo.replay.engine.changed_in_place import changed_fields, place_of_change
from choreo.replay.engine.hidden_inputs import watching_reads
from choreo.replay.engine.in_memory_service import S, Taken

T = TypeVar("T")

STEP_SECONDS = 10.0
"""So long a step may take. Most take a ten-thousandth of one."""
_AGAIN_SECONDS = 0.5
"""A handler that catches what ends it is told again."""
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
    "_thread.start_": "start a thread",
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


@dataclass(frozen=True, slots=True)
class Effect:
    """What a handler tried, and that has not happened."""

    what: str
    lines: tuple[str, ...]
    """Of the service's own code, from the handler to the place."""
    text: str = ""
    """What it printed."""

    @property
    def says(self) -> str:
        *callers, place = self.lines or ("a handler",)
        return f"{place} {self.what}{f', called from {callers[-1]}' if callers else ''}"


class SideEffect(HandlerMisbehaves):
    """A handler tried to do something. The message is a sentence."""


class StillRunning(HandlerMisbehaves):
    """A handler came to no end. The message is a sentence."""


class Left(Exception):
    """A handler wanted to end the program, which its own `except` does not hold up."""


class _Ended(BaseException):
    """Ends a step that takes too long, through whatever `except Exception` there is."""


class _Watch:
    """The one audit hook. Python cannot take it back, so most of the time it is off."""

    def __init__(self) -> None:
        self.on = self._installed = False
        self.effects: list[Effect] = []
        self.ended_at: tuple[str, ...] | None = None
        self._thread = 0
        self._what = ""

    def begin(self, what: str) -> None:
        if not self._installed:
            sys.addaudithook(self._hook)
            self._guard_threads()
            self._installed = True
        self._what, self._thread = what, threading.get_ident()
        self.effects, self.ended_at = [], None
        self.on = True

    def note(self, what: str, text: str = "", frame: FrameType | None = None) -> Effect:
        self.on = False  # what is looked at now is our own doing
        lines = (self._what,) if self._what else lines_to(frame or sys._getframe(2))
        effect = Effect(what, lines, text)
        last = self.effects[-1] if self.effects else None
        if last and last.what == "prints" and last.says == effect.says:
            effect = replace(effect, text=last.text + text)
            self.effects.pop()
        self.effects.append(effect)
        self.on = True
        return effect

    def read(self, what: str, frame: FrameType) -> None:
        self.note(what, frame=frame)

    def _guard_threads(self) -> None:
        """Before 3.12 Python does not report them."""
        start = _thread.start_new_thread

        def guarded(*arguments: Any) -> int:
            self._hook("_thread.start_new_thread", ())
            return start(*arguments)

        if sys.version_info < (3, 12):
            threading._start_new_thread = _thread.start_new_thread = guarded  # type: ignore[attr-defined]

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        if not self.on or threading.get_ident() != self._thread:
            return
        attempt = _attempt(name, args)
        if attempt is not None:
            raise SideEffect(f"{self.note(f'tries to {attempt}').says}: a replay has no side effects.")

    def end(self, _: int, frame: FrameType | None) -> None:
        if self.on:
            self.ended_at = self.ended_at or lines_to(frame)
            raise _Ended


class _Output(io.TextIOBase):
    """Takes what a handler prints."""

    def write(self, text: str) -> int:
        _watch.note("prints", text)
        return len(text)


_watch = _Watch()
_output = _Output()


@contextmanager
def watching(what: str = "", *, by_hand: bool = False) -> Iterator[list[Effect]]:
    """Refuses side effects in the block: the list has what was tried. `what` names what runs there; of a
    handler its lines are told. `by_hand`: somebody steps through it, who sees what it prints.

    For plain code: no await within. Raises `StillRunning` where it comes to no end.
    """
    streams = sys.stdout, sys.stderr
    timed = not by_hand and threading.current_thread() is threading.main_thread()
    _watch.begin(what)
    try:
        if not by_hand:
            sys.stdout = sys.stderr = _output
        if timed:
            before = signal.signal(signal.SIGALRM, _watch.end)
            timer = signal.setitimer(signal.ITIMER_REAL, STEP_SECONDS, _AGAIN_SECONDS)
        yield _watch.effects
    except _Ended:
        pass  # it is told below, as it is where the handler caught it
    finally:
        _watch.on = False
        if timed:
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, before)
        sys.stdout, sys.stderr = streams
    if _watch.ended_at is not None:
        at = f" at {_watch.ended_at[-1]}" if _watch.ended_at else ""
        raise StillRunning(f"still running after {STEP_SECONDS:.0f} s{at}")


@contextmanager
def no_side_effects(what: str = "", *, by_hand: bool = False) -> Iterator[None]:
    """As `watching`, and raises `SideEffect` for the first that was tried, even if a handler catches it."""
    with watching(what, by_hand=by_hand) as effects:
        try:
            yield
        finally:
            refuse(effects)


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """What came of running something in the sandbox."""

    result: T | Exception
    effects: list[Effect] = field(default_factory=list)


def watched(run: Callable[[], T]) -> Ran[T]:
    """Runs a handler: returns its result or what it raises, and what it tried. Raises `StillRunning`."""
    with watching() as effects:
        result: T | Exception
        try:
            result = run()
        except RecursionError as error:  # how deep it got, and with it what Python says, is chance
            result = RecursionError("it calls itself without an end").with_traceback(error.__traceback__)
        except Exception as error:
            result = error
        except (SystemExit, GeneratorExit) as error:
            result = Left(repr(error)).with_traceback(error.__traceback__)
    return Ran(result, effects)


def take(taken: Taken[S], *, reads: bool = False) -> Ran[Outcome[S]]:
    """Takes a step. `reads`: what it reads of clock, chance and environment is an effect, too, and what it
    changes of the state in place.

    Raises `StillRunning`, which names the input.
    """
    run = partial(watching_reads, taken.run, _watch.read) if reads else taken.run
    before = deepcopy(taken.state) if reads else None
    try:
        ran = watched(run)
        if reads and (changed := changed_fields(before, taken.state)):
            place = watched(partial(place_of_change, taken, before)).result
            what = f"changes {' and '.join(changed)} of the state it was given in place"
            ran.effects.append(Effect(what, place if isinstance(place, tuple) else ()))
        return ran
    except StillRunning as error:
        raise StillRunning(f"{_named(taken)} is {error}.") from None


def run_sandboxed(taken: Taken[S]) -> Outcome[S] | Exception:
    """Takes a step: returns its outcome, or what a handler raises. Raises `SideEffect`, `StillRunning`."""
    ran = take(taken)
    refuse(ran.effects)
    return ran.result


def refuse(effects: list[Effect]) -> None:
    """Raises `SideEffect` for the first that was more than printing."""
    refused = next((one for one in effects if one.what != "prints"), None)
    if refused:
        raise SideEffect(f"{refused.says}: a replay has no side effects.")


def _named(taken: Taken[Any]) -> str:
    match taken.input:
        case Event() as event:
            return f"{event.type} {event.id}"
        case Exception():
            return "a record"
        case command:
            return f"{type(command).__name__} {command.cause.id}"


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
