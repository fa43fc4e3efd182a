"""While a handler is replayed it can reach nothing outside: whoever tries is told where.

Python itself reports what is about to be opened (PEP 578); what it does not report is made to. That stops
mistakes, and is no prison: a C library that opens something by itself reports nothing. What is printed
meanwhile is kept, so that the output is the verb's own, and a step that does not end is ended.
"""

import _posixsubprocess
import _signal  # type: ignore[import-not-found]
import _thread
import atexit
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial, wraps
from types import FrameType, ModuleType
from typing import Any, Generic, TypeVar

from choreo.chassis.installed import named
from choreo.chassis.source_lines import lines_to
from choreo.chassis.transaction.step import Outcome
from choreo.errors import HandlerMisbehaves
from choreo.message.envelope import Event
from choreo.replay.engine.changed_in_place import changed_fields, copied, place_of_change
from choreo.replay.engine.hidden_inputs import watching_reads
from choreo.replay.engine.in_memory_service import S, Taken
from choreo.replay.sources.rows import values

T = TypeVar("T")

STEP_SECONDS = 10.0
"""So long a step may take. Most take a ten-thousandth of one."""
_AGAIN_SECONDS = 0.5
"""A handler that catches what ends it is told again."""
_STREAMS = "stdout", "stderr", "__stdout__", "__stderr__"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ATTEMPTS = {
    "socket.": "open a socket",
    "subprocess.": "start a process",
    "os.system": "start a process",
    "os.exec": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.fork": "start a process",
    "_posixsubprocess.": "start a process",
    "os.kill": "send a signal",
    "signal.": "send or catch a signal",
    "_thread.start_": "start a thread",
    "ctypes.": "call a library",
    "atexit.": "leave something to be done at the end",
    "os._exit": "end the program",
    "os.abort": "end the program",
    "os.putenv": "change the environment",
    "os.unsetenv": "change the environment",
    "os.chdir": "change the directory",
    "resource.setrlimit": "change a limit",
    "syslog.": "write to the system's log",
    "os.write": "write to an open file",
    "os.sendfile": "write to an open file",
    "mmap.": "map a file",
    "fcntl.": "change an open file",
    "os.mkfifo": "make a file",
    "os.mknod": "make a file",
    "os.setxattr": "change a file",
    "os.removexattr": "change a file",
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
"""By the beginning of the name of Python's audit event, or of the function that has none."""

_UNREPORTED: Sequence[tuple[ModuleType, str]] = (
    *((os, name) for name in ("_exit", "abort", "write", "writev", "sendfile", "mkfifo", "mknod")),
    *((os, f"p{name}") for name in ("write", "writev")),
    *((signal, name) for name in ("signal", "setitimer", "alarm", "raise_signal")),
    (atexit, "register"),
    (_posixsubprocess, "fork_exec"),  # what subprocess reports, multiprocessing does not
    # Threads are reported from 3.12 on.
    *([(_thread, "start_new_thread")] if sys.version_info < (3, 12) else []),
)
"""Each is replaced by one that reports itself."""
_set_handler, _set_timer = _signal.signal, signal.setitimer  # not Python's own: that makes enums of numbers


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

    def __init__(self, effect: Effect) -> None:
        super().__init__(f"{effect.says}: a replay has no side effects.")
        self.effect = effect


class StillRunning(HandlerMisbehaves):
    """A handler came to no end. The message is a sentence."""


class Left(Exception):
    """A handler wanted to end the program, which its own `except` does not hold up."""


class _Ended(BaseException):
    """Ends a step that takes too long, through whatever `except Exception` there is."""


class _Watch:
    """The one audit hook. Python cannot take it back, so most of the time it is off."""

    def __init__(self) -> None:
        self.on = self.always = self._installed = False
        self.effects: list[Effect] = []
        self._between: list[Effect] = []
        """What services tried while no handler was called: when they were imported, or in a property."""
        self.ended_at: tuple[str, ...] | None = None
        self._thread = 0
        self._what = ""

    def begin(self, what: str) -> None:
        self.install()
        self._what, self._thread = what, threading.get_ident()
        self.effects, self._between = self._between, []
        self.ended_at = None
        self.on = True

    def install(self) -> None:
        if not self._installed:
            sys.addaudithook(self._hook)
            for module, name in _UNREPORTED:
                setattr(module, name, self._reporting(module, name))
            if hasattr(threading, "_start_new_thread"):
                threading._start_new_thread = _thread.start_new_thread
            self._installed = True

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

    def _reporting(self, module: ModuleType, name: str) -> Callable[..., Any]:
        unreported = getattr(module, name)

        @wraps(unreported)
        def reporting(*arguments: Any, **named: Any) -> Any:
            self._hook(f"{module.__name__}.{name}", ())
            return unreported(*arguments, **named)

        return reporting

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        in_handler = self.on and threading.get_ident() == self._thread
        if not (in_handler or self.always):
            return
        attempt = _attempt(name, args)
        if attempt is None or not _is_of_a_service(sys._getframe(1), otherwise=in_handler):
            return
        if in_handler:
            raise SideEffect(self.note(f"tries to {attempt}"))
        effect = Effect(f"tries to {attempt}", lines_to(sys._getframe(1)))
        self._between.append(effect)
        raise SideEffect(effect)

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


def refuse_always() -> None:
    """From now on services reach nothing outside in this process, whoever calls them, and however late: also
    while they are imported, at the property of a row, in a thread, and at the end. For a process that does
    nothing but replay.
    """
    _watch.install()
    _watch.always = True


@contextmanager
def refusing_services() -> Iterator[None]:
    """As `refuse_always`, in the block: for an import of services."""
    before = _watch.always
    refuse_always()
    try:
        yield
    finally:
        _watch.always = before


@contextmanager
def watching(what: str = "", *, by_hand: bool = False) -> Iterator[list[Effect]]:
    """Refuses side effects in the block: the list has what was tried. `what` names what runs there; of a
    handler its lines are told. `by_hand`: somebody steps through it, who sees what it prints.

    For plain code: no await within. Raises `StillRunning` where it comes to no end.
    """
    streams = [getattr(sys, name) for name in _STREAMS]
    timed = not by_hand and threading.current_thread() is threading.main_thread()
    _watch.begin(what)
    try:
        if not by_hand:
            for name in _STREAMS:
                setattr(sys, name, _output)
        if timed:
            before = _set_handler(signal.SIGALRM, _watch.end)
            timer = _set_timer(signal.ITIMER_REAL, STEP_SECONDS, _AGAIN_SECONDS)
        yield _watch.effects
    except _Ended:
        pass  # it is told below, as it is where the handler caught it
    finally:
        _watch.on = False
        if timed:
            _set_timer(signal.ITIMER_REAL, *timer)
            _set_handler(signal.SIGALRM, before)
        for name, stream in zip(_STREAMS, streams, strict=True):
            setattr(sys, name, stream)
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
    run = partial(watching_reads, partial(_with_rows, taken), _watch.read) if reads else taken.run
    before = copied(taken.state) if reads else None
    try:
        ran = watched(run)
        if reads and (changed := changed_fields(before, taken.state)):
            place = watched(partial(place_of_change, taken, before)).result
            what = f"changes {' and '.join(changed)} of the state it was given in place"
            ran.effects.append(Effect(what, place if isinstance(place, tuple) else ()))
        return ran
    except StillRunning as error:
        raise StillRunning(f"{_named(taken)} is {error}.") from None


def _with_rows(taken: Taken[S]) -> Outcome[S]:
    """Takes the step and reads the rows it writes: a column may be a property, which is a service's code."""
    outcome = taken.run()
    for mapping, _, row, _, _ in taken.puts():
        values(mapping.table, row)
    return outcome


def run_sandboxed(taken: Taken[S]) -> Outcome[S] | Exception:
    """Takes a step: returns its outcome, or what a handler raises. Raises `SideEffect`, `StillRunning`."""
    ran = take(taken)
    refuse(ran.effects)
    return ran.result


def refuse(effects: list[Effect]) -> None:
    """Raises `SideEffect` for the first that was more than printing."""
    refused = next((one for one in effects if one.what != "prints"), None)
    if refused:
        raise SideEffect(refused)


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
        return f"write the file {path}" if flags & _WRITING else None
    return _attempt_called(name)


@cache
def _attempt_called(name: str) -> str | None:
    """Looks it up once: Python reports a look at a frame's code as well, of which there are many a step."""
    found = next((what for beginning, what in _ATTEMPTS.items() if name.startswith(beginning)), None)
    return f"{found} ({name})" if found else None


def _is_of_a_service(frame: FrameType | None, *, otherwise: bool) -> bool:
    """Tells whether a service's code is what does this, and not Python because it imports a library."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return False
        if _is_a_service(frame.f_globals.get("__name__", "").partition(".")[0]):
            return True
        frame = frame.f_back
    return otherwise


def _is_a_service(package: str) -> bool:
    return package in {entry.module.partition(".")[0] for entry in named().values()}
