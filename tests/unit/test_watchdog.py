"""A job that waits for what never comes is begun anew; one that knows its trouble is left alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count

import pytest

from choreo.chassis.observe import watchdog
from choreo.chassis.observe.health import Job


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "RESTART_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.01)


@asynccontextmanager
async def running(run: Callable[[], Awaitable[None]], job: Job) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.ensure_future(watchdog.watched(run, job, "a job"))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_job_that_waits_for_what_never_comes_is_begun_anew() -> None:
    job, begun, done = Job(), 0, asyncio.Event()
    job.got_on()

    async def run() -> None:
        nonlocal begun
        begun += 1
        job.has(3)
        if begun == 1:
            await asyncio.Event().wait()
        job.got_on()
        done.set()
        await asyncio.Event().wait()

    async with running(run, job), asyncio.timeout(10):
        await done.wait()
    assert begun == 2 and job.state.ready


@pytest.mark.asyncio
async def test_what_a_job_raises_is_raised() -> None:
    async def run() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await watchdog.watched(run, Job(), "a job")


def test_a_job_that_knows_its_trouble_is_not_stalled() -> None:
    seconds = count()
    job = Job(lambda: datetime.fromtimestamp(next(seconds), UTC))
    job.got_on()
    job.has(1)
    assert job.stalled_for > 0
    job.held_up("Kafka is away")
    assert job.stalled_for == 0
