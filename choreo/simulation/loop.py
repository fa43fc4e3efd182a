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
from math import inf
from random import Random
from typing import Any

BEGIN_SECONDS = 100_000.0
"""What the clock of a machine says that has been up for a day: nobody's last look was just now."""
_MOST_STEPS = 100_000
"""Who comes to no end within so many, comes to none. One schedule in a hundred has more than 4,000."""
_TASKS_KEPT = 128
"""With so many, or twice as many as go on, those that are done are forgotten."""


class _Handle:
    """A callback as asyncio knows it, without what this loop has no use for: it is made a thousand times a
    schedule.
    """

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "process")
    _source_traceback = None

    def __init__(
        self, callback: Callable[..., object], args: Sequence[Any], context: Context, process: "Process"
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self.process = process

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


_Bare = tuple[Callable[..., object], Sequence[Any], Context]
"""Likewise, of what nobody takes back."""


class Process:
    """What shares a memory and dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_stopped = False
        self.queue: deque[_Handle | _Bare] = deque()
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
    def __init__(self, chance: Random, *, stays: float, hurries: float) -> None:
        """`stays`: how often whoever has just run goes on, if there is more to do. `hurries`: how often
        somebody's time is up although others have something to do.
        """
        super().__init__()
        self.steps = 0
        self._world = Process("world")
        """What belongs to no process: faults, and their ends."""
        self._chance = chance.random
        self._stays = stays
        self._hurries = hurries
        self.now = BEGIN_SECONDS
        """Simulated."""
        self.nowrs: list[tuple[float, int, _Handle]] = []
        self._numbers = count()
        self._able: list[Process] = []
        """Those with something to do."""
        self.alarm_at: float = inf
        """At which step `alarm` is called, before it."""
        self.alarm: Callable[[], None] = lambda: None
        self.after: Callable[[Process, object], None] | None = None
        """Called after each step, with whose it was and what was called."""
        self._tasks: list[tuple[asyncio.Task[Any], Process]] = []
        self._most_tasks = _TASKS_KEPT
        self._readers: dict[int, _Handle] = {}

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self.now

    @property
    def elapsed(self) -> float:
        """Simulated seconds."""
        return self.now - BEGIN_SECONDS

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle | None:
        """Who gives a context, as tasks and futures do, never takes back what is to be done."""
        handle: _Handle | None = None
        if context is None:
            context = copy_context()
            handle = _Handle(callback, args, context, context.get(_PROCESS, self._world))
        process = context.get(_PROCESS, self._world)
        if process.is_alive:
            queue = process.queue
            if not queue and not process.is_stopped:
                self._able.append(process)
            queue.append(handle or (callback, args, context))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        if context is None:
            context = copy_context()
        timer = _Handle(callback, args, context, context.get(_PROCESS, self._world))
        heappush(self.nowrs, (when, next(self._numbers), timer))
        return timer

    def create_task(  # type: ignore[override]
        self, job: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(job, loop=self, name=name or "", context=context)
        if len(self._tasks) >= self._most_tasks:
            self._tasks = [kept for kept in self._tasks if not kept[0].done()]
            self._most_tasks = max(_TASKS_KEPT, 2 * len(self._tasks))
        process = context.get(_PROCESS, self._world) if context else _PROCESS.get(self._world)
        self._tasks.append((task, process))
        return task

    def tasks_of(self, process: Process) -> list["asyncio.Task[Any]"]:
        """Those that are not done."""
        return [task for task, owner in self._tasks if owner is process and not task.done()]

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Of a socket that is none, whose client is the process that asks."""
        context = copy_context()
        self._readers[fd] = _Handle(callback, args, context, context.get(_PROCESS, self._world))

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def readable(self, fd: int) -> None:
        """There is something to be read."""
        if reader := self._readers.get(fd):
            self.call_soon(reader._callback, *reader._args, context=reader._context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody waited for any more: its process is gone, or whoever asked has given up."""

    def get_debug(self) -> bool:
        return False

    # -- how it goes on --------------------------------------------------------------------------

    def play(self, until: Callable[[], bool], seconds: float) -> bool:
        """Whether it came to that within so many simulated seconds; asked whenever time passes. It has not
        where somebody goes round and round in no time.
        """
        events._set_running_loop(self)
        chance, able, stays, hurries = self._chance, self._able, self._stays, self._hurries
        limit, most = self.now + seconds, self.steps + _MOST_STEPS
        last: Process | None = None
        try:
            while True:
                if not able or chance() < hurries:
                    if until():
                        return True
                    if (not self._pass_time() and not able) or self.now > limit:
                        return False
                    if not able:
                        continue
                self.steps += 1
                if self.steps >= self.alarm_at:
                    self.alarm()
                    if not able:  # whoever was is dead now
                        continue
                if self.steps > most:
                    return False
                if last is not None and last.queue and not last.is_stopped and chance() < stays:
                    process, index = last, -1
                else:
                    index = int(chance() * len(able))
                    process = last = able[index]
                queue = process.queue
                handle = queue.popleft()
                if not queue:
                    if index < 0:
                        index = able.index(process)
                    able[index] = able[-1]
                    able.pop()
                if isinstance(handle, tuple):
                    callback, args, context = handle
                elif handle._cancelled:
                    continue
                else:
                    callback, args, context = handle._callback, handle._args, handle._context
                try:  # noqa: SIM105 - that would make a block of it at every step
                    context.run(callback, *args)
                except Exception:  # nobody waits for it any more, or whoever asked has given up
                    pass
                if self.after:
                    self.after(process, callback)
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
        self.call_later(seconds, self.resume, process, context=self._world.context)

    def resume(self, process: Process) -> None:
        if process.is_stopped:
            process.is_stopped = False
            if process.queue:
                self._able.append(process)

    def _disable(self, process: Process) -> None:
        if process in self._able:
            self._able.remove(process)

    def _pass_time(self) -> bool:
        """To when the next one's time is up. Whether there is one."""
        while self.nowrs:
            when, _, timer = heappop(self.nowrs)
            if timer._cancelled or not timer.process.is_alive:
                continue
            self.now = max(self.now, when)
            process = timer.process
            if not process.queue and not process.is_stopped:
                self._able.append(process)
            process.queue.append(timer)
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
        self.nowrs.clear()
        self._able.clear()
        super().close()
