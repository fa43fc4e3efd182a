"""Starts parts, keeps them running, and leaves nothing behind."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from choreo.embedded.part import OnDemand, Part, wait_ready
from choreo.errors import Unavailable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_STOP_WITHIN = 9.0
_STOP_ONE_GROUP_WITHIN = 4.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STEADY_AFTER = 5.0
"""Seconds after which a part that is ready counts as sound again: its next end is another story.

What is broken ends while it starts, or soon after it is ready, and is tried ever more rarely. Were this
longer, a part that is killed every half minute would be punished for what it did not do.
"""
_READY_AGAIN_WITHIN = 60.0


class _Stop(BaseException):
    """Somebody asked the system to stop. Raised in the main thread, wherever it is; caught at the `with`."""


@dataclass
class _Watched:
    part: Part
    group: int
    since: float
    up_since: float | None = None
    failures: int = 0
    again_at: float | None = None


class Supervisor:
    """Use as a context, from the main thread:

        with Supervisor(say) as system:
            system.start(kafka, postgres)
            system.wait(kafka, postgres)
            system.start(service)
            system.wait(service)
            system.watch()

    However the block is left, all parts are stopped within ten seconds, last started first. SIGINT, SIGTERM
    and SIGHUP leave it, without an exception; a second one kills what still runs. Should this very process
    be killed, the parts go with it.
    """

    def __init__(
        self, say: Callable[[str], None], on_change: Callable[[Part], None] = lambda part: None
    ) -> None:
        """`on_change` is called whenever a part has become ready."""
        self._say, self._on_change = say, on_change
        self._watched: list[_Watched] = []
        self._groups = 0
        self._asked_to_stop = False
        self._leaving = False
        self._impatient = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._leaving = True
        self._stop_all()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        return isinstance(error, _Stop)

    def start(self, *parts: Part) -> None:
        """Start these without waiting. What is started together is stopped together."""
        self._groups += 1
        self.add(*parts)

    def add(self, *parts: Part) -> None:
        """Start these, too; they are stopped together with those started last."""
        for part in parts:
            self._watched.append(_Watched(part, self._groups, since=time.monotonic()))
            part.start()

    def add_at_rest(self, part: OnDemand) -> None:
        """Start this one once it is wanted, which nobody waits for."""
        self._watched.append(_Watched(part, self._groups, since=time.monotonic(), again_at=0.0))

    def wait(self, *parts: Part, timeout: float = 60) -> None:
        """Until these are ready, with a line for each; Unavailable if one is not to be had."""
        watched = {id(one.part): one for one in self._watched}
        wait_ready(parts, timeout, lambda part: self._is_ready(watched[id(part)]))

    def end(self, *parts: Part) -> None:
        """Stop these, and watch them no more. Meanwhile nobody looks after the others."""
        self._stop(parts, deadline=time.monotonic() + _STOP_WITHIN)
        self._watched = [one for one in self._watched if one.part not in parts]
        for part in parts:
            self._say(f"{part.name} is stopped")

    def watch(self, look: Callable[[], None] = lambda: None) -> None:
        """Start again whatever ends: at once, then after a pause that doubles. Returns never: see the class.

        `look` is called five times a second, and may `add` and `end` parts.
        """
        while not self._asked_to_stop:
            for one in self._watched:
                self._look_after(one)
            look()
            time.sleep(0.2)
        raise _Stop

    def _look_after(self, one: _Watched) -> None:
        now = time.monotonic()
        if one.part.child:
            one.part.child.keep_log_short()
        if one.again_at is not None:
            if now >= one.again_at and one.part.wanted():
                self._start_again(one)
        elif isinstance(one.part, OnDemand) and one.part.exit_code == 0:
            one.up_since, one.failures, one.again_at = None, 0, now
        elif one.part.exit_code is not None:
            if not one.part.try_again():
                self._plan_restart(one, f"ended by itself (exit {one.part.exit_code})")
        elif one.up_since is None:
            if one.part.ready():
                self._is_ready(one)
            elif now > one.since + _READY_AGAIN_WITHIN:
                self._kill(one.part, timeout=10)
                self._plan_restart(one, "did not become ready")

    def _plan_restart(self, one: _Watched, what: str) -> None:
        now = time.monotonic()
        if one.up_since is not None and now > one.up_since + _STEADY_AFTER:
            one.failures = 0
        pause = min(_FIRST_PAUSE * 2 ** (one.failures - 1), _LONGEST_PAUSE) if one.failures else 0.0
        one.up_since, one.failures, one.again_at = None, one.failures + 1, now + pause
        when = f"in {pause:g} s" if pause else "at once"
        self._say(f"{one.part.name} {what}; starting it again {when} (see {one.part.running.log})")

    def _start_again(self, one: _Watched) -> None:
        one.again_at, one.since = None, time.monotonic()
        try:
            one.part.start()
        except Unavailable as error:
            self._plan_restart(one, f"cannot be started: {error}")

    def _is_ready(self, one: _Watched) -> None:
        one.up_since = time.monotonic()
        again = " again" if one.failures else ""
        self._say(f"{one.part.name} is ready{again} after {one.up_since - one.since:.1f} s")
        self._on_change(one.part)

    def _stop_all(self) -> None:
        deadline = time.monotonic() + _STOP_WITHIN
        for group in range(self._groups, 0, -1):
            parts = [one.part for one in self._watched if one.group == group and one.part.child]
            self._stop(parts, deadline)

    def _stop(self, parts: Sequence[Part], deadline: float) -> None:
        for part in parts:
            part.ask_to_stop()
        group_deadline = min(deadline, time.monotonic() + _STOP_ONE_GROUP_WITHIN)
        while any(part.exit_code is None for part in parts):
            if self._impatient or time.monotonic() > group_deadline:
                break
            time.sleep(0.02)
        for part in parts:
            self._kill(part, timeout=max(0.1, deadline - time.monotonic()))

    def _kill(self, part: Part, timeout: float) -> None:
        """Goes on where the process cannot end yet: the others must be stopped all the same."""
        try:
            part.kill(timeout)
        except TimeoutError as error:
            self._say(f"{error}, although it was killed; it goes as soon as the disk lets it")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Waits for nothing: what it interrupts may hold any lock."""
        if self._asked_to_stop or self._leaving:
            self._impatient = True
        else:
            self._asked_to_stop = True  # for watch(), should the exception be swallowed, as in a finaliser
            raise _Stop
