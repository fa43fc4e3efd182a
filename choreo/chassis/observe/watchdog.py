"""Begins a job anew that has work, does not get on, and knows of no trouble: it waits for nothing."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from choreo.chassis.observe.health import Job

RESTART_AFTER_SECONDS = 30.0
LOOK_SECONDS = 1.0
_CANCEL_SECONDS = 6.0

log = structlog.get_logger()

Run = Callable[[], Awaitable[None]]


async def watched(run: Run, job: Job, name: str) -> None:
    """Runs until cancelled, or until the job itself ends: then raises what it raised."""
    while True:
        task = asyncio.ensure_future(run())
        try:
            while not task.done() and job.stalled_for < RESTART_AFTER_SECONDS:
                await asyncio.wait([task], timeout=LOOK_SECONDS)
        finally:
            if not task.done():
                await cancel(task)
        if not task.cancelled():
            return task.result()
        log.error("begun anew: it had work and did not get on", job=name, cause=job.state.cause)
        job.has(0)


async def cancel(task: "asyncio.Future[None]") -> None:
    """Returns once it has ended. Faust swallows a cancellation that meets it while it starts or stops, and
    `asyncio.wait_for` of Python 3.11 one that meets its answer, so a job that has not gone is told again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_SECONDS)
