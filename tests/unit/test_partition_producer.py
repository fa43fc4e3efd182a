"""How a partition's facts become batches, whatever their sizes and whatever Kafka takes. Kafka is played."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
)
from aiokafka.record import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from choreo.chassis import clock
from choreo.chassis.kafka import partition_producer, shared_produce
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import Metadata, Topic
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.kafka.shared_produce import SharedProduce
from choreo.chassis.transaction.outbox import OutboxRow

TOPIC = "topic"
OVERHEAD = 200
"""A batch of one record is at most so much larger than its value."""


@dataclass
class Cluster:
    """Takes batches up to a size."""

    partitions: int = 1
    takes: int = 10**6
    taken: list[bytes] = field(default_factory=list)
    """The values, in their order."""
    looked: int = 0
    """So often it was asked who leads."""
    closed: int = 0
    is_silent: bool = False

    async def new_producer_id(self) -> tuple[int, int]:
        return 1, 0

    async def metadata(self, topics: Iterable[str]) -> Metadata:
        self.looked += 1
        leaders = dict.fromkeys(range(self.partitions), 1)
        return Metadata("cluster", {1: ("host", 9092)}, {TOPIC: Topic("id", leaders, leaders, {"WRITE"})})

    requests: list[list[int]] = field(default_factory=list)
    """Which partitions were in each."""
    refuses: set[int] = field(default_factory=set)
    """These partitions."""
    is_away: bool = False

    async def produce(
        self, leader: Any, topic: str, batches: Mapping[int, bytes], within_ms: int = 0
    ) -> dict[int, KafkaError]:
        self.requests.append(sorted(batches))
        if self.is_silent:
            await asyncio.Event().wait()
        if self.is_away:
            raise KafkaConnectionError("no answer")
        errors: dict[int, KafkaError] = {}
        for partition, batch in batches.items():
            if partition in self.refuses:
                errors[partition] = NotEnoughReplicasError()
            elif len(batch) > self.takes:
                errors[partition] = MessageSizeTooLargeError(len(batch))
            else:
                records = MemoryRecords(batch)
                while records.has_next():
                    self.taken += [bytes(record.value) for record in records.next_batch()]
        return errors

    def close(self) -> None:
        self.closed += 1


def producer(cluster: Cluster, partitions: int = 1) -> PartitionProducer:
    made = PartitionProducer(KafkaAccess("host:9092"), TOPIC, 0, partitions)
    made._cluster = cast(Any, cluster)
    return made


def rows_of(values: Iterable[bytes]) -> list[OutboxRow]:
    return [OutboxRow(uuid4(), "ada", 0, value, b"[]", clock.now(), at) for at, value in enumerate(values)]


async def send_all(sender: PartitionProducer, rows: list[OutboxRow]) -> None:
    while rows:
        sent = await sender.send(rows)
        assert sent >= 1
        rows = rows[sent:]


@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=40), spare=st.integers(0, 4000))
def test_every_fact_goes_out_once_and_in_order_however_little_kafka_takes(
    sizes: list[int], spare: int
) -> None:
    """As long as it takes the largest alone."""
    values = [b"%d:" % number + b"x" * size for number, size in enumerate(sizes)]
    cluster = Cluster(takes=max(map(len, values)) + OVERHEAD + spare)
    asyncio.run(send_all(producer(cluster), rows_of(values)))
    assert cluster.taken == values


@given(size=st.integers(1000, 3000), before=st.integers(0, 5))
def test_a_fact_that_is_too_large_is_told_and_what_comes_before_it_goes_out(size: int, before: int) -> None:
    values = [b"%d" % number for number in range(before)]
    cluster = Cluster(takes=900)
    with pytest.raises(MessageSizeTooLargeError):
        asyncio.run(send_all(producer(cluster), rows_of([*values, b"x" * size, b"behind it"])))
    assert cluster.taken == values


@given(used=st.integers(1, 20), there=st.integers(1, 20))
def test_a_topic_may_have_more_partitions_than_keys_use_and_never_fewer(used: int, there: int) -> None:
    cluster = Cluster(partitions=there)
    sending = producer(cluster, used).send(rows_of([b"fact"]))
    if there < used:
        with pytest.raises(KafkaError, match=f"CHOREO_PARTITIONS says {used}"):
            asyncio.run(sending)
    else:
        asyncio.run(sending)
    assert cluster.taken == ([] if there < used else [b"fact"])


async def test_who_leads_is_asked_again_only_after_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_producer, "SEND_TIMEOUT_SECONDS", 0.05)
    cluster = Cluster()
    sender = producer(cluster)
    await sender.send(rows_of([b"one"]))
    looked = cluster.looked
    await sender.send(rows_of([b"two"]))
    assert (cluster.looked, cluster.closed) == (looked, 0)
    cluster.is_silent = True
    with pytest.raises(KafkaError, match="no acknowledgement"):
        await sender.send(rows_of([b"three"]))
    assert cluster.closed == 1, "what is late on that connection is no answer to what comes next"
    cluster.is_silent = False
    await sender.send(rows_of([b"three"]))
    assert cluster.looked == 2 * looked
    assert cluster.taken == [b"one", b"two", b"three"]


PARTITIONS = 4


class Neighbours:
    """Producers of all partitions, who share their requests. What is sent apart goes to another `Cluster`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.together, self.apart = Cluster(PARTITIONS), Cluster(PARTITIONS)
        patch.setattr(shared_produce, "Cluster", lambda access: self.together)
        patch.setattr(partition_producer, "Cluster", lambda access: self.apart)
        access = KafkaAccess("host:9092")
        shared = SharedProduce(access, TOPIC)
        self.all = [PartitionProducer(access, TOPIC, one, PARTITIONS, shared) for one in range(PARTITIONS)]

    async def send(self, *partitions: int) -> list[int | BaseException]:
        """At once, a fact each."""
        sending = [self.all[one].send(rows_of([b"fact"])) for one in partitions]
        return await asyncio.gather(*sending, return_exceptions=True)


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> Neighbours:
    return Neighbours(monkeypatch)


async def test_what_goes_to_one_leader_at_once_is_one_request(neighbours: Neighbours) -> None:
    assert await neighbours.send(0, 1, 2) == [1, 1, 1]
    assert await neighbours.send(1, 3) == [1, 1]
    assert neighbours.together.requests == [[0, 1, 2], [1, 3]]
    assert neighbours.apart.requests == []


async def test_one_that_is_refused_sends_by_itself_from_then_on_and_its_neighbours_share(
    neighbours: Neighbours,
) -> None:
    neighbours.together.refuses = {2}
    first, second, refused = await neighbours.send(0, 1, 2)
    assert (first, second) == (1, 1)
    assert isinstance(refused, NotEnoughReplicasError)
    assert await neighbours.send(0, 1, 2) == [1, 1, 1]
    assert (neighbours.together.requests[1:], neighbours.apart.requests) == ([[0, 1]], [[2]])


async def test_where_a_leader_does_not_answer_each_goes_on_by_itself(neighbours: Neighbours) -> None:
    neighbours.together.is_away = True
    assert all(isinstance(told, KafkaConnectionError) for told in await neighbours.send(0, 1))
    assert await neighbours.send(0, 1) == [1, 1]
    assert neighbours.apart.requests == [[0], [1]]


async def test_after_a_while_they_share_again(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_producer, "APART_SECONDS", 0.0)
    neighbours.together.refuses = {1}
    await neighbours.send(0, 1)
    neighbours.together.refuses = set()
    assert await neighbours.send(0, 1) == [1, 1]
    assert neighbours.together.requests == [[0, 1], [0, 1]]


async def test_one_that_is_given_up_keeps_no_other_from_going_out(neighbours: Neighbours) -> None:
    await neighbours.send(0, 1)
    given_up = asyncio.ensure_future(neighbours.all[0].send(rows_of([b"given up"])))
    other = asyncio.ensure_future(neighbours.all[1].send(rows_of([b"fact"])))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await other == 1
    assert neighbours.together.taken[2:] == [b"fact"]


async def test_where_all_are_given_up_nothing_is_sent(neighbours: Neighbours) -> None:
    await neighbours.send(0, 1)
    given_up = [asyncio.ensure_future(neighbours.all[one].send(rows_of([b"given up"]))) for one in (0, 1)]
    await asyncio.sleep(0)
    for sending in given_up:
        sending.cancel()
    await asyncio.wait(given_up)
    await asyncio.sleep(0)
    assert neighbours.together.requests == [[0, 1]]
