"""An event loop that owns every choice: who runs next, and how time passes. One seed, one order of events.

Each process has a queue of its own, which is served first come, first served, as asyncio serves it. Which
process goes on is drawn at every step. Time passes when nobody has anything to do, and now and then before.
"""

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

_TIME_PASSES = 0.02
"""So often somebody's time is up although others have something to do."""

_TASKS_KEPT = 64
"""With so many, those that are done are forgotten."""


class _Handle(asyncio.TimerHandle):
    """A callback as asyncio knows it, without what this loop has no use for: it is made a thousand times a
    schedule.
    """

    __slots__ = ("process",)

    def __init__(self, callback: Callable[..., object], args: Sequence[Any], context: Context | None) -> None:
        self._callback = callback
        self._args = args
        self._context = context = context if context is not None else copy_context()
        self._cancelled = False
        self._scheduled = False
        self._source_traceback = None
        self.process: Process = context.get(_PROCESS, _WORLD)

    def cancel(self) -> None:
        self._cancelled = True


class Process:
    """What shares a memory and dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_stopped = False
        self.queue: deque[_Handle] = deque()
        self.context = copy_context()
        """In which whatever belongs to it is begun."""
        self.context.run(_PROCESS.set, self)
        self.tasks: list[asyncio.Task[Any]] = []
        """Kept, so that nothing of a process that was killed is cleaned up while the others go on."""

    def begin(self, job: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(job, context=self.context)
        self.tasks.append(task)
        return task


_PROCESS: ContextVar[Process] = ContextVar("process")


class SimulatedLoop(asyncio.BaseEventLoop):
    def __init__(self, chance: Random, *, stays: float) -> None:
        """`stays`: how often whoever has just run goes on, if there is more to do."""
        super().__init__()
        self.steps = 0
        self._chance = chance.random
        self._stays = stays
        self._time = 0.0
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count()
        self._able: list[Process] = []
        """Those with something to do."""
        self._last: Process | None = None
        self._tasks: list[tuple[asyncio.Task[Any], Process]] = []
        self._readers: dict[int, _Handle] = {}

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self._time

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, context)
        self._put(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Handle(callback, args, context)
        heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def create_task(  # type: ignore[override]
        self, job: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(job, loop=self, name=name or "", context=context)
        if len(self._tasks) >= _TASKS_KEPT:
            self._tasks = [kept for kept in self._tasks if not kept[0].done()]
        process = context.get(_PROCESS, _WORLD) if context else _PROCESS.get(_WORLD)
        self._tasks.append((task, process))
        return task

    def tasks_of(self, process: Process) -> list["asyncio.Task[Any]"]:
        """Those that are not done."""
        return [task for task, owner in self._tasks if owner is process and not task.done()]

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Of a socket that is none, whose client is the process that asks."""
        self._readers[fd] = _Handle(callback, args, None)

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def readable(self, fd: int) -> None:
        """There is something to be read."""
        if reader := self._readers.get(fd):
            self._put(_Handle(reader._callback, reader._args, reader._context))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody waited for any more: its process is gone, or whoever asked has given up."""

    def get_debug(self) -> bool:
        return False

    # -- how it goes on --------------------------------------------------------------------------

    def play(self, until: Callable[[], bool], seconds: float, at_step: Callable[[int], None]) -> bool:
        """Whether it came to that within so many simulated seconds; asked whenever time passes."""
        events._set_running_loop(self)
        limit = self._time + seconds
        try:
            while True:
                if not self._able or self._chance() < _TIME_PASSES:
                    if until():
                        return True
                    if (not self._pass_time() and not self._able) or self._time > limit:
                        return False
                    if not self._able:
                        continue
                self.steps += 1
                at_step(self.steps)
                if self._able:  # whoever was, may be dead now
                    self._step()
        finally:
            events._set_running_loop(None)

    def inside(self, act: Callable[[], Awaitable[None] | None]) -> None:
        """Outside of `play`, for what has to know its loop."""
        events._set_running_loop(self)
        try:
            act()
        finally:
            events._set_running_loop(None)

    def kill(self, process: Process) -> None:
        """All of its memory is gone: nothing of it is ever carried on."""
        process.is_alive = False
        self._disable(process)
        process.queue.clear()

    def halt(self, process: Process, seconds: float) -> None:
        """As SIGSTOP does, and SIGCONT after so long. It does not know that time has passed."""
        if process.is_stopped or not process.is_alive:
            return
        process.is_stopped = True
        self._disable(process)
        self.call_later(seconds, self.resume, process, context=_WORLD.context)

    def resume(self, process: Process) -> None:
        if process.is_stopped:
            process.is_stopped = False
            if process.queue:
                self._able.append(process)

    def _disable(self, process: Process) -> None:
        if process in self._able:
            self._able.remove(process)

    def _put(self, handle: _Handle) -> None:
        process = handle.process
        if not process.is_alive:
            return
        if not process.queue and not process.is_stopped:
            self._able.append(process)
        process.queue.append(handle)

    def _step(self) -> None:
        able = self._able
        last = self._last
        if last is not None and last.queue and not last.is_stopped and self._chance() < self._stays:
            process, index = last, -1
        else:
            index = int(self._chance() * len(able))
            process = self._last = able[index]
        handle = process.queue.popleft()
        if not process.queue:
            if index < 0:
                index = able.index(process)
            able[index] = able[-1]
            able.pop()
        if not handle._cancelled:
            with suppress(Exception):  # nobody waits for it any more, or whoever asked has given up
                handle._context.run(handle._callback, *handle._args)

    def _pass_time(self) -> bool:
        """To when the next one's time is up. Whether there is one."""
        while self._timers:
            when, _, timer = heappop(self._timers)
            if timer._cancelled or not timer.process.is_alive:
                continue
            self._time = max(self._time, when)
            self._put(timer)
            return True
        return False

    def close(self) -> None:
        """Nothing is carried on."""
        for task, _ in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(Exception):  # it would await something more, or take this for trouble
                    task.get_coro().close()
        self._tasks.clear()
        self._timers.clear()
        self._able.clear()
        super().close()


_WORLD = Process("world")
"""What belongs to no process: faults, and their ends."""
