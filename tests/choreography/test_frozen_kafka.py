"""Kafka freezes while it is read: its connections stay open, and nobody answers on them."""

import asyncio
import gc
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaTimeoutError
from confluent_kafka import Producer

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.log_reader import LogReader, NothingCame
from choreo.chassis.transaction.positions import TopicPartition
from tests.brokers import Broker

_RECORDS, _RECORD_BYTES, _FETCH_BYTES = 40, 100_000, 200_000
"""Most of it is still to be fetched once the first records are there."""


@pytest.fixture
def log(kafka: Broker) -> TopicPartition:
    topic = f"long-{uuid4().hex}"
    declare_topics(kafka.admin, [topic], partitions=1)
    producer = Producer(kafka.admin.confluent())
    for _ in range(_RECORDS):
        producer.produce(topic, bytes(_RECORD_BYTES), b"key", partition=0)
    assert producer.flush(30) == 0
    return topic, 0


async def test_who_has_nothing_to_read_is_not_cancelled(kafka: Broker) -> None:
    for _ in range(5):
        async with LogReader(kafka.admin):
            pass


async def test_who_reads_hears_so_within_six_seconds_and_nothing_else_is_said(
    kafka: Broker, log: TopicPartition, capfd: pytest.CaptureFixture[str]
) -> None:
    async def read_to_the_end(reader: LogReader) -> None:
        count = 0
        while count < _RECORDS:
            async for fetched in reader.read_on(log):
                count += len(fetched.records)

    try:
        async with LogReader(kafka.admin, fetch_bytes=_FETCH_BYTES, silence_timeout_seconds=30) as reader:
            reader.assign({log: 0})
            assert [fetched async for fetched in reader.read_on(log)]
            kafka.pause()
            since = time.monotonic()
            asked = read_to_the_end(reader), reader.latest(log), reader.first_since(log, datetime.now(UTC))
            told = await asyncio.gather(*asked, return_exceptions=True)
        assert time.monotonic() - since < 6
    finally:
        kafka.resume()
        kafka.wait_ready()
    assert [type(one) for one in told] == [NothingCame, KafkaTimeoutError, KafkaTimeoutError]
    assert all("does not answer" in str(one) for one in told)
    del told
    gc.collect()
    assert capfd.readouterr() == ("", "")
