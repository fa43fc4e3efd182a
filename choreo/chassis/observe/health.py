"""Whether each job of this process gets on: progress, not existence.

A job says what waits for it and when it got on. One that has work and has not got on for `STALLED_SECONDS`
is not ready, whether or not it noticed that anything is wrong.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from choreo.chassis import clock

PROBE_TIMEOUT_SECONDS = 2.0
STALLED_SECONDS = 10.0
"""Work that waits for longer, while none is done, makes a job stalled."""


class NotReady(Exception):
    """Raised by a probe; its text is the cause shown. It must hold no secret."""


@dataclass(frozen=True, slots=True)
class JobState:
    ready: bool
    waiting: int
    """How much is to be done."""
    since: datetime
    """When it last got on."""
    cause: str | None
    """Why it does not get on."""
    serves: bool = True
    """Whether requests can be taken all the same."""


class Job:
    """One job's own word about itself, kept up to date by whoever does the work. At first not ready."""

    def __init__(self, now: Callable[[], datetime] = clock.now) -> None:
        self._now = now
        self._since = self._waiting_since = now()
        self._waiting = 0
        self._cause: str | None = "starting"
        self._serves = False

    def got_on(self, waiting: int = 0) -> None:
        """Something was done just now, or there was nothing to do; so much is left."""
        self._cause = None
        self._since = self._waiting_since = self._now()
        self._waiting = waiting

    def has(self, waiting: int) -> None:
        """So much is to be done. Says nothing about whether it gets on."""
        if not self._waiting:
            self._waiting_since = self._now()
        self._waiting = waiting

    def held_up(self, cause: str, *, serves: bool = False) -> None:
        """It cannot go on until the cause is gone: the next `got_on` says that it is. `serves`: only a part
        of it cannot, and requests can be taken all the same.
        """
        self._cause, self._serves = cause, serves

    @property
    def stalled_for(self) -> float:
        """Seconds for which work has waited and none was done, while the job itself knows of no trouble."""
        if self._cause is not None or not self._waiting:
            return 0.0
        return (self._now() - self._waiting_since).total_seconds()

    @property
    def state(self) -> JobState:
        cause, stalled = self._cause, self.stalled_for
        serves = cause is None or self._serves
        if stalled > STALLED_SECONDS:
            cause, serves = f"{self._waiting} waiting, and no progress for {stalled:.0f} s", False
        return JobState(cause is None, self._waiting, self._since, cause, serves)


Probe = Callable[[], Awaitable[object]]
"""Tries something out, or raises."""


class Health:
    """The jobs of one process, and what they all need. A service without jobs is ready."""

    def __init__(self, now: Callable[[], datetime] = clock.now) -> None:
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._probes: dict[str, tuple[Probe, Job]] = {}
        self._serving: set[str] = set()
        self._trying: dict[str, asyncio.Future[None]] = {}

    def job(self, name: str, *, serving: bool = False) -> Job:
        """The job of this name, made at the first call. `serving`: no request can be taken without it."""
        self._serving |= {name} if serving else set()
        return self._jobs.setdefault(name, Job(self._now))

    def probe(self, name: str, probe: Probe, *, serving: bool = False) -> None:
        """Runs whenever its state is asked for, for at most `PROBE_TIMEOUT_SECONDS`. All who ask meanwhile
        share it, so that nobody makes it slow by asking.
        """
        self._probes[name] = probe, self.job(name, serving=serving)

    async def ready(self) -> Mapping[str, JobState]:
        """Every job."""
        return await self._states(self._jobs)

    async def serving(self) -> Mapping[str, JobState]:
        """The jobs without which no request can be taken."""
        return await self._states(name for name in self._jobs if name in self._serving)

    async def _states(self, names: Iterable[str]) -> Mapping[str, JobState]:
        wanted = list(names)
        await asyncio.gather(*(self._tried(name) for name in wanted if name in self._probes))
        return {name: self._jobs[name].state for name in wanted}

    async def _tried(self, name: str) -> None:
        if name not in self._trying:
            self._trying[name] = asyncio.ensure_future(_try(*self._probes[name]))
            self._trying[name].add_done_callback(lambda _: self._trying.pop(name))
        await asyncio.shield(self._trying[name])


async def _try(probe: Probe, job: Job) -> None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await probe()
    except NotReady as error:
        job.held_up(str(error))
    except TimeoutError:
        job.held_up(f"no answer within {PROBE_TIMEOUT_SECONDS:g} s")
    except Exception as error:
        # The text of a driver's error may hold a connection string.
        job.held_up(f"failed with {type(error).__name__}")
    else:
        job.got_on()
