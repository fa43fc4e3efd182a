"""A process of a service: it does not stay up pretending."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from types import MethodType

import pytest
from fastapi import FastAPI

from choreo.chassis.kafka.consumer import ConsumerDied
from choreo.chassis.runtime import Runtime, _serve
from choreo.chassis.settings import Settings
from choreo.chassis.waiting.waiters import Waiters
from choreo.embedded.ports import free_ports
from choreo.embedded.postgres import Postgres
from order_service.app import build
from order_service.state import Orders
from tests.databases import a_database
from tests.shop import PATIENCE


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A service takes over the signals of its process, which here is the test run's."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(postgres: Postgres, templates: dict[str, str]) -> Iterator[Settings]:
    with (
        a_database("order", postgres, templates) as database,
        socket.create_server(("127.0.0.1", 0)) as shared,
        socket.create_server(("127.0.0.1", 0)) as own,
    ):
        (nowhere,) = free_ports(1)
        yield Settings(
            database_urls={"order": database.runtime_url},
            kafka_bootstrap_servers=f"127.0.0.1:{nowhere}",
            http_fd=shared.dup().detach(),
            own_http_fd=own.dup().detach(),
        )


async def test_a_service_whose_consumer_died_stops_and_says_so(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def die() -> None:
        raise ConsumerDied("Faust stopped: a bug")

    def ill(settings: Settings) -> tuple[Runtime[Orders], FastAPI]:
        runtime, app = build(settings)
        runtime.jobs.append(die)
        return runtime, app

    async with asyncio.timeout(PATIENCE):
        assert not await _serve("order", ill, settings)
    assert "a job died, stopping" in capsys.readouterr().out


async def test_a_service_that_is_told_to_stop_sends_away_whoever_waits(settings: Settings) -> None:
    waiters: list[Waiters] = []

    def built(settings: Settings) -> tuple[Runtime[Orders], FastAPI]:
        runtime, app = build(settings)
        waiters.append(runtime.kernel.waiters)
        del runtime.watched["consumer"]
        return runtime, app

    async with asyncio.timeout(PATIENCE):
        serving = asyncio.ensure_future(_serve("order", built, settings))
        while not isinstance(signal.getsignal(signal.SIGTERM), MethodType):  # noqa: ASYNC110 - uvicorn's
            await asyncio.sleep(0.01)
        with waiters[0].watching("somebody") as signalled:
            signal.raise_signal(signal.SIGTERM)
            while not waiters[0].closed:  # woken for other reasons, too
                await signalled.wait()
                signalled.clear()
        assert await serving
