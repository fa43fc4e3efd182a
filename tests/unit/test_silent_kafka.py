"""What a frozen Kafka is to who reads: its host takes connections, and nobody answers."""

import asyncio
import gc
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
from tests.shop import PATIENCE


class Silent:
    """Counts who asks at the same time."""

    def __init__(self) -> None:
        self.asking = self.most = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asking += 1
        self.most = max(self.most, self.asking)
        await reader.read()
        self.asking -= 1
        writer.close()


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest_asyncio.fixture
async def frozen(silent: Silent) -> AsyncIterator[KafkaAccess]:
    server = await asyncio.start_server(silent.take, "127.0.0.1", 0)
    yield KafkaAccess(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()


async def test_who_reads_is_told_so_within_six_seconds_and_nothing_else_is_said(
    frozen: KafkaAccess, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of these six no more than the answer's timeout is waited for, which is shorter here."""
    assert log_reader._ANSWER_TIMEOUT_SECONDS < 6
    monkeypatch.setattr(log_reader, "_ANSWER_TIMEOUT_SECONDS", 0.5)

    async def read() -> None:
        async with LogReader(frozen):
            raise AssertionError("it answers")

    async with asyncio.timeout(PATIENCE):
        asked = read(), describe_retrying(frozen, ["order-events"])
        told = await asyncio.gather(*asked, return_exceptions=True)
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
    frozen: KafkaAccess, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_ANSWER_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(checkup, "_REQUEST_TIMEOUT_SECONDS", 0.5)
    port = int(frozen.bootstrap.rpartition(":")[2])
    settings = Settings(kafka_bootstrap_servers=frozen.bootstrap)
    urls = dict.fromkeys(SERVICES, "postgresql://nobody@127.0.0.1:1/nothing")
    found = await examine(Installation(settings, urls, own_ports={name: [port, port] for name in urls}))
    assert silent.most >= 2 * len(urls)
    assert "does not answer" in found[0].says
    assert [one.about for one in found if one.check == "ready"] == list(SERVICES)
