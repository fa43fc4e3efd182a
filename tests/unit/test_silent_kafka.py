"""What a frozen Kafka is to who reads: its host takes connections, and nobody answers."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiokafka.errors import KafkaTimeoutError

from choreo.chassis.kafka import log_reader
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import LogReader, describe_retrying, retrying
from choreo.chassis.kafka.topic_log import LogMismatch
from choreo.chassis.settings import Settings
from choreo.operations.reading import checkup
from choreo.operations.reading.checkup import examine
from choreo.operations.reading.installation import Installation
from tests.services import SERVICES


@pytest_asyncio.fixture
async def frozen() -> AsyncIterator[KafkaAccess]:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    yield KafkaAccess(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()


async def test_who_reads_is_told_so_within_six_seconds_and_nothing_else_is_said(
    frozen: KafkaAccess, capfd: pytest.CaptureFixture[str]
) -> None:
    async def read() -> None:
        async with LogReader(frozen):
            raise AssertionError("it answers")

    since = time.monotonic()
    told = await asyncio.gather(read(), describe_retrying(frozen, ["order-events"]), return_exceptions=True)
    assert time.monotonic() - since < 6
    assert [type(one) for one in told] == [KafkaTimeoutError] * 2
    assert all(f"Kafka at {frozen.bootstrap} does not answer" in str(one) for one in told)
    del told
    gc.collect()
    assert capfd.readouterr() == ("", "")


async def test_what_it_said_before_it_fell_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_RETRY_TIMEOUT_SECONDS", 0.2)
    answers: Iterator[Exception | None] = iter([LogMismatch("the topic orders is not there"), None])

    async def ask() -> None:
        if said := next(answers):
            raise said
        await asyncio.Event().wait()

    with pytest.raises(LogMismatch, match="the topic orders is not there"):
        await retrying(ask)


async def test_a_reader_that_was_never_opened_leaves_no_warning(
    frozen: KafkaAccess, capfd: pytest.CaptureFixture[str]
) -> None:
    LogReader(frozen)
    gc.collect()
    assert capfd.readouterr() == ("", "")


async def test_the_doctor_waits_for_all_who_are_silent_at_the_same_time(
    frozen: KafkaAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_ANSWER_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(checkup, "_REQUEST_TIMEOUT_SECONDS", 0.5)
    silent = int(frozen.bootstrap.rpartition(":")[2])
    settings = Settings(kafka_bootstrap_servers=frozen.bootstrap)
    urls = dict.fromkeys(SERVICES, "postgresql://nobody@127.0.0.1:1/nothing")
    since = time.monotonic()
    found = await examine(Installation(settings, urls, own_ports={name: [silent, silent] for name in urls}))
    assert time.monotonic() - since < 0.5 * len(urls), "one after the other it would be four times that"
    assert "does not answer" in found[0].says
    assert [one.about for one in found if one.check == "ready"] == list(SERVICES)
