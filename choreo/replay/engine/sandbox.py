"""While a handler is replayed it can reach nothing outside: whoever tries is told where.

Python itself reports what is about to be opened (PEP 578); what it does not report is made to. That stops
mistakes, and is no prison: a C library that opens something by itself reports nothing. What is printed
meanwhile is kept, so that the output is the verb's own, and a step that does not end is ended.
"""

import _signal  # type: ignore[import-not-found]
import _thread
import io
import os
import posix
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Generic, NoReturn, TypeVar

from choreo.chassis.source_lines import callers, is_own, is_shared, lines_to, read_installed
from choreo.chassis.transaction.step import Decider, Outcome
from choreo.errors import HandlerMisbehaves
from choreo.message.envelope import Event
from choreo.replay.engine.attempts import attempt_at, unreported
from choreo.replay.engine.changed_in_place import changed_fields, copied, place_of_change
from choreo.replay.engine.hidden_inputs import LOOKS, is_a_librarys, is_import, is_pythons, watching_reads
from choreo.replay.engine.in_memory_service import S, Taken
from choreo.replay.sources.rows import values

T = TypeVar("T")

STEP_SECONDS = 10.0
"""So long a step may take. Most take a ten-thousandth of one."""
_AGAIN_SECONDS = 0.5
"""A handler that catches what ends it is told again."""
_MOST_ENDS = 4
"""One that catches that so often ends with the program."""
_STREAMS = "stdout", "stderr", "__stdout__", "__stderr__"
_set_handler, _set_timer = _signal.signal, signal.setitimer  # not Python's own: that makes enums of numbers
_exit = os._exit
_WATCHERS = "sys.setprofile", "sys.settrace"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a handler tried, and that has not happened."""

    what: str
    lines: tuple[str, ...]
    """Of the service's own code, from the handler to the place."""
    text: str = ""
    """What it printed."""
    outside: bool = False
    """No handler was called: it was imported, say."""

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


class _Left(Exception):
    """A handler wanted to end the program, which its own `except` does not hold up."""


def _left(error: BaseException) -> Exception:
    """Returns one that looks the same, and is caught with all others."""
    looks_so: type[Exception] = type(type(error).__name__, (_Left,), {})
    return looks_so(*error.args).with_traceback(error.__traceback__)


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
        self.input: Callable[[], str] = str
        """Names what is taken."""
        self.interrupted = self.knows_interrupts = False
        self.by_hand = self.reads = self._looks = False
        self._ends = 0
        self._thread = 0
        self._what = ""

    def begin(self, what: str, by_hand: bool) -> None:
        self.install()
        self.by_hand = by_hand
        self._what, self._thread = what, threading.get_ident()
        self.effects, self._between = self._between, []
        self.ended_at, self.interrupted, self._ends = None, False, 0
        self.on = True

    def install(self) -> None:
        if not self._installed:
            sys.addaudithook(self._hook)
            for module, name in unreported():
                setattr(module, name, self._reporting(module, name))
            if hasattr(threading, "_start_new_thread"):
                threading._start_new_thread = _thread.start_new_thread
            self._installed = True

    def note(self, what: str, lines: tuple[str, ...], text: str = "") -> Effect:
        was_on, self.on = self.on, False  # what is looked at now is our own doing
        effect = Effect(what, (self._what,) if self._what and was_on else lines, text, not was_on)
        effects = self.effects if was_on else self._between
        last = effects[-1] if effects else None
        if last and last.what == "prints" and last.says == effect.says:
            effect = replace(effect, text=last.text + text)
            effects.pop()
        effects.append(effect)
        self.on = was_on
        return effect

    def _reporting(self, module: ModuleType | type, name: str) -> Callable[..., Any]:
        function = getattr(module, name)
        where = "loop" if isinstance(module, type) else "os" if module is posix else module.__name__
        event = f"{where}.{name}"

        @wraps(function)
        def reporting(*arguments: Any, **named: Any) -> Any:
            self._hook(event, arguments)
            return function(*arguments, **named)

        return reporting

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        if self._looks or not (self.in_handler or self.always):
            return
        self._looks = True  # what that reports is our own doing
        try:
            self._look(name, args)
        finally:
            self._looks = False

    def _look(self, name: str, args: tuple[Any, ...]) -> None:
        attempt = attempt_at(name, args)
        if self.reads and name == "open" and attempt is None and self.in_handler:
            frame = sys._getframe(2)
            if isinstance(args[0], str | bytes) and not is_pythons(frame):
                self._reads(os.path.abspath(os.fsdecode(args[0])), frame)
        if name in _WATCHERS and (self.by_hand or _is_ours(sys._getframe(2))):
            return
        if attempt is not None and _is_of_a_service(sys._getframe(2), otherwise=self.in_handler):
            raise SideEffect(self.note(f"tries to {attempt}", lines_to(sys._getframe(2))))

    def _reads(self, path: str, frame: FrameType) -> None:
        """What lies in a package is a part of it."""
        own = next((one for one in callers(frame) if is_own(one)), frame)
        if not Path(path).is_relative_to(Path(own.f_code.co_filename).parent):
            self.note(f"reads the file {path}", lines_to(frame))

    @property
    def in_handler(self) -> bool:
        return self.on and threading.get_ident() == self._thread

    def end(self, _: int, frame: FrameType | None) -> None:
        if self.interrupted:
            _exit(130)
        if self.on:
            self.ended_at = self.ended_at or lines_to(frame)
            self._ends += 1
            if self._ends > _MOST_ENDS:
                self.on = self.always = False
                print(f"choreo: {self.input()} is {self.endless}, and catches what ends it.", file=sys.stderr)
                sys.stderr.flush()
                _exit(HandlerMisbehaves.exit_code)
            raise _Ended

    @property
    def endless(self) -> str:
        at = f" at {self.ended_at[-1]}" if self.ended_at else ""
        return f"still running after {STEP_SECONDS:.0f} s{at}"

    def interrupt(self, *_: object) -> NoReturn:
        """For SIGINT. Whatever is caught: the program ends, if need be a moment later."""
        if self.on:
            self.interrupted = True
            _set_timer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        raise KeyboardInterrupt


class _KeptBytes(io.RawIOBase):
    name = "kept"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        _watch.note("prints", lines_to(sys._getframe()), bytes(data).decode(errors="replace"))
        return len(data)


class _Kept(io.TextIOWrapper):
    """What a handler has for a stream: all of it that can be written to, and it is not closed."""

    def __init__(self) -> None:
        super().__init__(_KeptBytes(), "utf-8", "replace", write_through=True)

    def fileno(self) -> int:
        return 1  # nothing is written to it: `os` refuses that

    def close(self) -> None:
        pass


class _Output:
    """A stream that keeps apart what a service prints, whoever calls it and whenever it took the stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written: int = self._there(sys._getframe()).write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there(sys._getframe()), name)

    def _there(self, frame: FrameType) -> Any:
        if _watch.by_hand:
            return self._stream
        kept = _watch.in_handler or (_watch.always and _is_of_a_service(frame, otherwise=False))
        return _kept if kept else self._stream


_watch = _Watch()
_kept = _Kept()


def refuse_always() -> None:
    """From now on services reach nothing outside in this process, whoever calls them, and however late: also
    while they are imported, at the property of a row, in a thread, and at the end. For a process that does
    nothing but replay.
    """
    _watch.install()
    _watch.always = True
    _keep_output_apart()


def interrupt_at_once() -> None:
    """Ctrl-C ends the program whatever a handler does, which leaves asyncio no turn, and may catch it."""
    _watch.knows_interrupts = True
    signal.signal(signal.SIGINT, _watch.interrupt)


def _keep_output_apart() -> list[Any]:
    """Returns the streams as they were."""
    streams: list[Any] = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    for name, stream in zip(_STREAMS, streams, strict=True):
        if not isinstance(stream, _Output):
            setattr(sys, name, _Output(stream))
    return streams


def _put_back(streams: list[Any]) -> None:
    for name, stream in zip(_STREAMS, streams, strict=True):
        setattr(sys, name, stream)


@contextmanager
def refusing_services() -> Iterator[None]:
    """As `refuse_always`, in the block: for an import of services."""
    before, streams = _watch.always, _keep_output_apart()
    _watch.install()
    _watch.always = True
    try:
        yield
    finally:
        _watch.always = before
        _put_back(streams)


def imported_anew(run: Callable[[], T]) -> T:
    """Imports services, and remembers what of clock, chance and the like they read meanwhile."""

    def note(what: str, lines: tuple[str, ...]) -> None:
        if not what.startswith(LOOKS):
            _watch.note(what, lines)

    return watching_reads(run, note, is_a_librarys)


class watching:
    """Refuses side effects in the block: the list has what was tried. `what` names what runs there; of a
    handler its lines are told. `by_hand`: somebody steps through it, who sees what it prints.

    For plain code: no await within. Raises `StillRunning` where it comes to no end. A class, as a generator
    that is a context takes twice as long, and every step is one.
    """

    __slots__ = "_before", "_by_hand", "_streams", "_timed", "_timer", "_what"

    def __init__(self, what: str = "", *, by_hand: bool = False) -> None:
        self._what, self._by_hand = what, by_hand

    def __enter__(self) -> list[Effect]:
        self._streams = _keep_output_apart()
        self._timed = not self._by_hand and threading.current_thread() is threading.main_thread()
        _watch.begin(self._what, self._by_hand)
        if self._timed:
            self._before = _set_handler(signal.SIGALRM, _watch.end)
            self._timer = _set_timer(signal.ITIMER_REAL, STEP_SECONDS, _AGAIN_SECONDS)
        return _watch.effects

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        _watch.on = False
        if self._timed:
            _set_timer(signal.ITIMER_REAL, *self._timer)
            _set_handler(signal.SIGALRM, self._before)
        _put_back(self._streams)
        if kind is not None and kind is not _Ended:
            return False
        if _watch.interrupted:
            raise KeyboardInterrupt
        if _watch.ended_at is not None:
            raise StillRunning(_watch.endless)
        return kind is not None


@contextmanager
def no_side_effects(what: str = "", *, by_hand: bool = False) -> Iterator[None]:
    """As `watching`, and raises `SideEffect` for the first that was tried, even if a handler catches it."""
    with watching(what, by_hand=by_hand) as effects:
        try:
            with _staying():
                yield
        finally:
            refuse(effects)


@contextmanager
def _staying() -> Iterator[None]:
    """Raises `_Left` where whatever runs in the block would end the program, or the task."""
    try:
        yield
    except (Exception, _Ended):
        raise
    except BaseException as error:
        raise _stays(error) from None


def _stays(error: BaseException) -> Exception:
    """Returns what is told of who would have left with this. Raises it where a person has interrupted."""
    if isinstance(error, KeyboardInterrupt) and (_watch.interrupted or not _watch.knows_interrupts):
        raise error
    return _left(error)


def guarded(decider: Decider[S], tried: list[HandlerMisbehaves]) -> Decider[S]:
    """Returns the same handlers, which reach nothing outside wherever they are called. `tried` is told who
    does, as a kernel that calls them parks whatever they raise.
    """

    def held(handler: Callable[..., T]) -> Callable[..., T]:
        def handle(*arguments: Any) -> T:
            try:
                with no_side_effects():
                    return handler(*arguments)
            except HandlerMisbehaves as error:
                tried.append(error)
                raise

        return handle

    react = decider.react and held(decider.react)
    return replace(decider, decide=held(decider.decide), evolve=held(decider.evolve), react=react)


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
        except _Ended:
            raise
        except BaseException as error:
            result = _stays(error)
    return Ran(result, effects)


def take(taken: Taken[S], *, reads: bool = False) -> Ran[Outcome[S]]:
    """Takes a step. `reads`: what it reads of clock, chance and environment is an effect, too, and what it
    changes of the state in place.

    Raises `StillRunning`, which names the input.
    """
    run = partial(watching_reads, partial(_with_rows, taken), _watch.note) if reads else taken.run
    before = copied(taken.state) if reads else None
    _watch.input, _watch.reads = partial(_named, taken), reads
    if reads:
        read_installed()  # which asks much, and is asked for each line
    try:
        ran = watched(run)
        if reads and (changed := changed_fields(before, taken.state)):
            place = watched(partial(place_of_change, taken, before)).result
            what = f"changes {' and '.join(changed)} of the state it was given in place"
            ran.effects.append(Effect(what, place if isinstance(place, tuple) else ()))
        return ran
    except StillRunning as error:
        raise StillRunning(f"{_named(taken)} is {error}.") from None
    finally:
        _watch.reads = False


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


def _is_ours(frame: FrameType) -> bool:
    return bool(frame.f_globals.get("__name__", "").startswith("choreo."))


def _is_of_a_service(frame: FrameType | None, *, otherwise: bool) -> bool:
    """Tells whether code that nobody installed does this, and not Python because it imports a library.

    `otherwise` is the answer where neither is on the way.
    """
    while frame is not None:
        if is_import(frame):
            return False
        if is_own(frame) or is_shared(frame):
            return True
        frame = frame.f_back
    return otherwise
