"""A job is ready while it gets on, not while it exists."""

import asyncio
from datetime import UTC, datetime, timedelta

from choreo.chassis.observe.health import STALLED_SECONDS, Health, Job

START = datetime(2026, 1, 1, tzinfo=UTC)


class Watch:
    def __init__(self) -> None:
        self.time = START

    def passes(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def __call__(self) -> datetime:
        return self.time


def test_work_that_waits_without_progress_makes_a_job_stalled_although_it_never_complained() -> None:
    watch = Watch()
    job = Job(watch)
    job.got_on()
    job.has(3)
    watch.passes(STALLED_SECONDS + 1)
    assert not job.state.ready
    assert job.state.cause == "3 waiting, and no progress for 11 s"
    assert job.state.since == START
    job.got_on(waiting=2)
    assert job.state.ready and job.state.waiting == 2


def test_a_job_that_had_nothing_to_do_has_its_time_once_work_comes() -> None:
    watch = Watch()
    job = Job(watch)
    job.got_on()
    watch.passes(1000)
    job.has(1)
    watch.passes(STALLED_SECONDS / 2)
    job.has(5)
    assert job.state.ready and job.state.since == START
    watch.passes(STALLED_SECONDS)
    assert not job.state.ready


def test_more_work_is_no_progress() -> None:
    watch = Watch()
    job = Job(watch)
    job.got_on()
    for count in range(1, 20):
        job.has(count)
        watch.passes(1)
    assert not job.state.ready


def test_what_holds_it_up_is_said_until_it_gets_on() -> None:
    job = Job(Watch())
    assert job.state.cause == "starting"
    job.held_up("Kafka does not answer")
    assert job.state.cause == "Kafka does not answer"
    job.has(0)
    assert not job.state.ready
    job.got_on()
    assert job.state.ready and job.state.cause is None


async def test_however_many_ask_a_probe_runs_once_at_a_time() -> None:
    health, go_on, begun = Health(), asyncio.Event(), 0

    async def probe() -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()

    health.probe("database", probe, serving=True)
    asking = [asyncio.create_task(ask()) for ask in [health.ready, health.serving] * 20]
    await asyncio.sleep(0)
    asking.pop().cancel()
    go_on.set()
    assert all(states["database"].ready for states in await asyncio.gather(*asking))
    assert begun == 1
    await health.ready()
    assert begun == 2
