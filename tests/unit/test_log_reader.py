"""What is read of a log and said of it. aiokafka's consumer is played."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aiokafka
from aiokafka import ConsumerRecord

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import Fetched
from choreo.chassis.kafka.log_reader import LogReader

PLACE = "topic", 1
MONDAY = datetime(2030, 1, 7, tzinfo=UTC)


class Consumer:
    """Of a log with records at 4, 6 and 7, of which the last is the first since Monday."""

    async def beginning_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {aiokafka.TopicPartition(*PLACE): 4}

    async def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {aiokafka.TopicPartition(*PLACE): 8}

    async def offsets_for_times(self, times: dict[Any, int]) -> dict[Any, Any]:
        ((partition, time),) = times.items()
        young = time > MONDAY.timestamp() * 1000
        return {partition: None if young else SimpleNamespace(offset=7)}

    async def position(self, partition: Any) -> int:
        return 8

    async def getmany(self, *, timeout_ms: int) -> dict[Any, Fetched]:
        records = [ConsumerRecord(*PLACE, n, 0, 0, b"key", b"{}", None, 0, 0, []) for n in (4, 6, 7)]
        return {aiokafka.TopicPartition(*PLACE): Fetched(records, 4, 8, [(4, 0)])}


def reader() -> LogReader:
    made: Any = LogReader(KafkaAccess("host:9092"))
    made._consumer = Consumer()
    found: LogReader = made
    return found


async def test_where_a_partition_begins_and_ends_and_what_is_the_first_since() -> None:
    assert await reader().earliest(PLACE) == 4
    assert await reader().latest(PLACE) == 8
    assert await reader().first_since(PLACE, MONDAY) == 7
    assert await reader().first_since(PLACE, datetime(2031, 1, 1, tzinfo=UTC)) is None


async def test_each_record_says_where_the_reading_went_on_that_found_it() -> None:
    (fetched,) = await reader().poll()
    assert (fetched.place, fetched.next_offset) == (PLACE, 8)
    assert [(record.offset, record.begin) for record in fetched.records] == [(4, 4), (6, 5), (7, 7)]
