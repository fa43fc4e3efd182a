"""What relay and consumer lean on, of every log that they may stand on: Kafka's, and the one in memory.

Where Kafka would have to lose what it has acknowledged, its broker is killed and the log's file made shorter.
What only several brokers could show is not compared: a follower that lacks something and is elected.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as Place
from aiokafka.errors import (
    GroupLoadInProgressError,
    InvalidProducerEpoch,
    KafkaError,
    KafkaTimeoutError,
    NotCoordinatorForGroupError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumber,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import HealthCheck, settings
from hypothesis import given as forall
from hypothesis import strategies as st

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.aiokafka_internals import Fetched
from choreo.chassis.kafka.cluster import EARLIEST, LATEST, Cluster
from choreo.chassis.kafka.faust_internals import ChunkedApp, Stream
from choreo.chassis.transaction import positions
from choreo.embedded.kafka import Kafka
from choreo.message.codec import Record
from choreo.simulation.kafka import Access, MemoryApp, MemoryCluster
from choreo.simulation.log import Group, Log
from choreo.simulation.loop import Process
from tests.brokers import Broker
from tests.shop import eventually

PARTITIONS = 2
GROUP = "readers"
SEQUENCE_NUMBERS = 2**31
T = TypeVar("T")
Ending = Callable[[], Awaitable[None]]


class Logs(Protocol):
    """A topic, of one kind."""

    topic: str
    group: str
    cluster: Cluster

    def app(self, client_id: str) -> ChunkedApp: ...

    async def fetch(self, partition: int, offset: int, limit: int) -> Fetched:
        """At most so many records, once there is something. Raises KafkaError."""
        ...

    async def begin_transaction(self, partition: int, values: Sequence[str], *, commits: bool) -> Ending: ...

    async def forget_before(self, partition: int, offset: int) -> None: ...

    async def committed(self) -> Mapping[int, int]:
        """The group's offsets by partition."""
        ...

    async def set_committed(self, offsets: Mapping[int, int]) -> None:
        """By somebody who is no member. Raises `UnknownMemberIdError`."""
        ...


class InMemory:
    def __init__(self) -> None:
        self.topic, self.group = "topic", GROUP
        self.log = Log([self.topic], PARTITIONS, self._turn)
        self._group = Group(self.log.places)
        self.cluster: Any = MemoryCluster(self._access("somebody"))

    async def _turn(self, request: str) -> None:
        await asyncio.sleep(0)

    def _access(self, client_id: str) -> Access:
        return Access(
            self.log,
            {self.group: self._group},
            Process(client_id),
            Random(1),
            acknowledged=lambda group, place, offset: None,
            is_late=lambda place, batch: False,
        )

    def app(self, client_id: str) -> Any:
        return MemoryApp(self.group, client_id, self._access(client_id))

    async def fetch(self, partition: int, offset: int, limit: int) -> Fetched:
        return await self.log.fetch((self.topic, partition), offset, limit)

    async def begin_transaction(self, partition: int, values: Sequence[str], *, commits: bool) -> Ending:
        end = self.log.begin_transaction((self.topic, partition), a_record_each(values), commits=commits)

        async def ended() -> None:
            end()

        return ended

    async def forget_before(self, partition: int, offset: int) -> None:
        self.log.forget_before((self.topic, partition), offset)

    async def committed(self) -> Mapping[int, int]:
        return {partition: offset for (_, partition), offset in self._group.committed.items()}

    async def set_committed(self, offsets: Mapping[int, int]) -> None:
        self._group.commit(None, {(self.topic, partition): offset for partition, offset in offsets.items()})


class InKafka:
    def __init__(self, kafka: Broker) -> None:
        self.topic, self.group = f"t{uuid4().hex[:10]}", f"g{uuid4().hex[:10]}"
        self.access = kafka.admin
        self.cluster = Cluster(self.access)
        self._admin = AdminClient(self.access.confluent())

    async def make(self) -> None:
        await asyncio.to_thread(declare_topics, self.access, [self.topic], PARTITIONS)
        places = [(self.topic, partition) for partition in range(PARTITIONS)]
        await once_started(lambda: self.cluster.offsets(places, LATEST))

    def app(self, client_id: str) -> ChunkedApp:
        return ChunkedApp(self.group, client_id, self.access)

    async def fetch(self, partition: int, offset: int, limit: int) -> Fetched:
        place = Place(self.topic, partition)
        async with AIOKafkaConsumer(
            **self.access.aiokafka(), auto_offset_reset="none", isolation_level="read_committed"
        ) as consumer:
            consumer.assign([place])
            consumer.seek(place, offset)
            while True:
                if found := await consumer.getmany(place, timeout_ms=500, max_records=limit):
                    chunk: Fetched = found[place]
                    return chunk

    async def begin_transaction(self, partition: int, values: Sequence[str], *, commits: bool) -> Ending:
        producer = AIOKafkaProducer(**self.access.aiokafka(), transactional_id=uuid4().hex)
        await producer.start()
        await producer.begin_transaction()
        for record in a_record_each(values):
            await producer.send_and_wait(self.topic, record.value, record.key, partition=partition)

        async def end() -> None:
            await (producer.commit_transaction() if commits else producer.abort_transaction())
            await producer.stop()

        return end

    async def forget_before(self, partition: int, offset: int) -> None:
        await _done(self._admin.delete_records([TopicPartition(self.topic, partition, offset)]))

    async def committed(self) -> Mapping[int, int]:
        asked = [ConsumerGroupTopicPartitions(self.group)]
        (told,) = await _done(self._admin.list_consumer_group_offsets(asked))
        return {at.partition: at.offset for at in told.topic_partitions if at.offset >= 0}

    async def set_committed(self, offsets: Mapping[int, int]) -> None:
        told = [TopicPartition(self.topic, *each) for each in offsets.items()]
        asked = [ConsumerGroupTopicPartitions(self.group, told)]

        async def answer() -> list[int]:
            (told,) = await _done(self._admin.alter_consumer_group_offsets(asked))
            return [at.error.code() for at in told.topic_partitions if at.error]

        errors = await eventually(answer, lambda codes: not _OF_A_START.intersection(codes))
        for code in errors:
            raise for_code(code)


_OF_A_START = {GroupLoadInProgressError.errno, NotCoordinatorForGroupError.errno}
"""What a broker answers that has not begun with everything."""


async def _done(futures: Mapping[Any, "Future[Any]"]) -> list[Any]:
    return [await asyncio.wrap_future(future) for future in futures.values()]


@asynccontextmanager
async def in_kafka(kafka: Broker) -> AsyncIterator[InKafka]:
    logs = InKafka(kafka)
    await logs.make()
    try:
        yield logs
    finally:
        logs.cluster.close()


@pytest.fixture(params=["memory", "kafka"])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Logs]:
    if request.param == "memory":
        yield InMemory()
        return
    async with in_kafka(request.getfixturevalue("kafka")) as found:
        yield found


# What a log holds, and what a fetch brings.


async def test_a_batch_is_appended_to_its_partition_alone(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "abc")
    await sender.send(0, "d")
    assert await ends(logs, 0) == (0, 4, 4)
    assert await ends(logs, 1) == (0, 0, 0)
    chunk = await logs.fetch(0, 0, limit=10)
    assert [record.offset for record in chunk] == [0, 1, 2, 3]
    assert [(record.key, record.value) for record in chunk] == [(b"key", value.encode()) for value in "abcd"]
    assert [tuple(record.headers) for record in chunk] == [(("name", b"value"), ("empty", None))] * 4
    epoch = (await logs.cluster.metadata([logs.topic])).topic(logs.topic).leader_epochs[0]
    assert [chunk.leader_epoch(offset) for offset in range(4)] == [epoch] * 4


async def test_a_fetch_begins_within_a_batch_and_brings_no_more_than_is_asked_for(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "abc")
    await sender.send(0, "de")
    chunks = [chunk async for chunk in read(logs, 0, begin=1, limit=2)]
    assert all(len(chunk) <= 2 for chunk in chunks)
    assert "".join(record.value.decode() for chunk in chunks for record in chunk) == "bcde"


async def test_who_has_read_all_is_given_the_next_one(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "a")
    waiting = asyncio.ensure_future(logs.fetch(0, 1, limit=10))
    await sender.send(0, "b")
    assert [record.value for record in await waiting] == [b"b"]


async def test_a_record_is_found_by_its_offset(logs: Logs) -> None:
    await (await Sender.new(logs)).send(0, "ab")
    await (await Sender.new(logs)).send(1, "c")
    found = await logs.cluster.records({(logs.topic, 0): 1, (logs.topic, 1): 0})
    assert {place[1]: found[place].record.value for place in found} == {0: b"b", 1: b"c"}


async def test_what_is_not_shown_yet_is_not_taken_for_nothing(logs: Logs) -> None:
    """Behind the end something may be, which a new leader does not know to be on its followers."""
    await (await Sender.new(logs)).send(0, "ab")
    await (await Sender.new(logs)).send(1, "c")
    with pytest.raises(KafkaTimeoutError):
        await logs.cluster.records({(logs.topic, 0): 2, (logs.topic, 1): 0})


async def test_before_the_beginning_and_behind_the_end_there_is_nothing(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "abcd")
    await logs.forget_before(0, 2)
    assert await ends(logs, 0) == (2, 4, 4)
    for offset in (0, 1, 5):
        with pytest.raises(OffsetOutOfRangeError):
            await logs.fetch(0, offset, limit=10)
        assert await logs.cluster.records({(logs.topic, 0): offset}) == {}
    assert [record.offset for record in await logs.fetch(0, 2, limit=10)] == [2, 3]


async def test_a_log_that_has_forgotten_everything_goes_on_at_its_end(logs: Logs) -> None:
    """And knows who has sent what: the next number is the next."""
    sender = await Sender.new(logs)
    await sender.send(0, "ab")
    await logs.forget_before(0, 2)
    assert await ends(logs, 0) == (2, 2, 2)
    waiting = asyncio.ensure_future(logs.fetch(0, 2, limit=10))
    with pytest.raises(OutOfOrderSequenceNumber):
        await sender.send(0, "d", first=3)
    await sender.send(0, "ab", first=0)
    await sender.send(0, "c", first=2)
    assert [(record.offset, record.value) for record in await waiting] == [(2, b"c")]


async def test_nothing_behind_the_end_is_forgotten(logs: Logs) -> None:
    await (await Sender.new(logs)).send(0, "a")
    with pytest.raises((OffsetOutOfRangeError, KafkaException)):
        await logs.forget_before(0, 2)
    await logs.forget_before(0, 1)
    await logs.forget_before(0, 0)
    assert await ends(logs, 0) == (1, 1, 1)


# Who sends.


async def test_a_batch_that_comes_again_is_recognised_among_the_last_five(logs: Logs) -> None:
    sender = await Sender.new(logs)
    for value in "abcdef":
        await sender.send(0, value)
    await sender.send(0, "f", first=5)
    await sender.send(0, "b", first=1)
    with pytest.raises(OutOfOrderSequenceNumber):
        await sender.send(0, "a", first=0)
    assert await ends(logs, 0) == (0, 6, 6)


async def test_a_number_is_one_partitions(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "ab", first=0)
    await sender.send(1, "a", first=0)
    with pytest.raises(OutOfOrderSequenceNumber):
        await sender.send(1, "c", first=2)


async def test_who_is_new_sends_again_what_is_there_under_any_number(logs: Logs) -> None:
    await (await Sender.new(logs)).send(0, "a")
    await (await Sender.new(logs)).send(0, "a")
    await (await Sender.new(logs)).send(0, "a", first=7)
    assert await ends(logs, 0) == (0, 3, 3)


async def test_numbers_begin_anew_behind_the_largest(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "abc", first=SEQUENCE_NUMBERS - 2)
    await sender.send(0, "d", first=1)
    await sender.send(0, "abc", first=SEQUENCE_NUMBERS - 2)
    assert await ends(logs, 0) == (0, 4, 4)


async def test_who_has_a_newer_epoch_begins_anew_and_shuts_out_the_older(logs: Logs) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "a", first=0)
    sender.epoch += 1
    with pytest.raises(OutOfOrderSequenceNumber):
        await sender.send(0, "b", first=1)
    await sender.send(0, "b", first=0)
    sender.epoch -= 1
    with pytest.raises(InvalidProducerEpoch):
        await sender.send(0, "c", first=1)
    assert await ends(logs, 0) == (0, 2, 2)


SENT = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from((0, 0, 0, 0, 1)), st.integers(0, 5), st.integers(1, 2)),
    min_size=2,
    max_size=10,
)
"""Sender, its epoch, number of the first record, how many records."""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@forall(sent=SENT)
def test_whatever_is_sent_is_taken_alike(kafka: Broker, sent: list[tuple[int, int, int, int]]) -> None:
    async def answers(logs: Logs) -> list[object]:
        senders = [await Sender.new(logs) for _ in range(2)]
        told: list[object] = []
        for number, epoch, first, count in sent:
            senders[number].epoch = epoch
            try:
                await senders[number].send(0, "abc"[:count], first=first)
                told.append((await ends(logs, 0))[1])
            except Exception as error:
                told.append(type(error))
        return told

    async def compare() -> None:
        async with in_kafka(kafka) as found:
            assert await answers(InMemory()) == await answers(found)

    asyncio.run(compare())


# What somebody's transaction leaves.


@pytest.mark.parametrize("commits", [True, False])
async def test_a_transaction_hides_what_comes_behind_it_until_it_ends(logs: Logs, commits: bool) -> None:
    sender = await Sender.new(logs)
    await sender.send(0, "a")
    end = await logs.begin_transaction(0, "bc", commits=commits)
    await sender.send(0, "d")
    assert await ends(logs, 0) == (0, 4, 1)
    assert [record.value for record in await logs.fetch(0, 0, limit=10)] == [b"a"]
    waiting = asyncio.ensure_future(logs.fetch(0, 1, limit=10))
    await end()
    await eventually(lambda: ends(logs, 0), lambda found: found == (0, 5, 5))
    chunk = await waiting
    assert chunk.begin == 1
    assert "".join(record.value.decode() for record in chunk) == ("bcd" if commits else "d")


async def test_what_was_aborted_and_the_end_of_it_are_passed(logs: Logs) -> None:
    """They have offsets, which are no holes in the reading. Who asks for one by its offset is given it."""
    await (await logs.begin_transaction(0, "ab", commits=False))()
    await eventually(lambda: ends(logs, 0), lambda found: found == (0, 3, 3))
    chunks = [chunk async for chunk in read(logs, 0, begin=0, limit=1)]
    assert [record for chunk in chunks for record in chunk] == []
    assert (chunks[0].begin, chunks[-1].end) == (0, 3)
    found = [await logs.cluster.records({(logs.topic, 0): offset}) for offset in range(3)]
    values = [record.record.value for one in found for record in one.values()]
    assert (values[:2], len(values)) == ([b"a", b"b"], 3)


WRITTEN = st.lists(
    st.tuples(st.sampled_from(("batch", "commit", "abort", "open", "forget")), st.integers(1, 3)),
    min_size=2,
    max_size=6,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@forall(written=WRITTEN, limit=st.integers(1, 4))
def test_whatever_is_written_is_read_alike(kafka: Broker, written: list[tuple[str, int]], limit: int) -> None:
    async def told(logs: Logs) -> list[object]:
        sender, open_ones = await Sender.new(logs), []
        for kind, count in written:
            begin, end, _ = await ends(logs, 0)
            match kind:
                case "batch":
                    await sender.send(0, "abc"[:count])
                case "forget":
                    await logs.forget_before(0, min(begin + count, end))
                case _:
                    ending = await logs.begin_transaction(0, "xyz"[:count], commits=kind == "commit")
                    if kind == "open":
                        open_ones.append(ending)
                    else:
                        await ending()
                        await eventually(lambda: ends(logs, 0), partial(_is_longer, end + count))
        found: list[object] = [await ends(logs, 0), *[record async for record in seen(logs)]]
        for ending in open_ones:
            await ending()
        await eventually(lambda: ends(logs, 0), lambda now: now[1] == now[2])
        return [*found, await ends(logs, 0), *[record async for record in seen(logs)]]

    async def seen(logs: Logs) -> AsyncIterator[tuple[int, bytes]]:
        begin, _, _ = await ends(logs, 0)
        async for chunk in read(logs, 0, begin=begin, limit=limit):
            for record in chunk:
                yield record.offset, record.value

    async def compare() -> None:
        async with in_kafka(kafka) as found:
            assert await told(InMemory()) == await told(found)

    asyncio.run(compare())


def _is_longer(least: int, found: tuple[int, int, int]) -> bool:
    return found[1] > least


# Who reads in a group.


async def test_a_session_begins_where_it_is_told_and_not_where_its_group_has_committed(logs: Logs) -> None:
    await (await Sender.new(logs)).send(0, "abcd")
    await logs.set_committed({0: 3})
    async with Session(logs, {0: 1}) as session:
        await session.reads(0, "bcd")
        assert all(one.end == other.begin for one, other in pairwise(session.chunks[0]))
        session.app.acknowledge((logs.topic, 0), 2)
        await eventually(logs.committed, lambda committed: committed.get(0) == 2)
        with pytest.raises(UnknownMemberIdError):
            await logs.set_committed({0: 4})
    await eventually(lambda: logs.cluster.group(logs.group), lambda group: group.state == "Empty")
    assert (await logs.committed())[0] == 2
    await logs.set_committed({0: 4})
    assert (await logs.committed())[0] == 4


async def test_a_partition_that_is_paused_holds_up_no_other(logs: Logs) -> None:
    sender = await Sender.new(logs)
    async with Session(logs, {}) as session:
        await sender.send(0, "a")
        await session.reads(0, "a")
        session.app.pause((logs.topic, 0))
        await sender.send(0, "bcdefgh")
        await sender.send(1, "x")
        await session.reads(1, "x")
        session.app.resume((logs.topic, 0))
        await session.reads(0, "abcdefgh")


@pytest.mark.parametrize("offset", [0, 5])
async def test_a_session_ends_that_is_to_begin_where_nothing_is(logs: Logs, offset: int) -> None:
    await (await Sender.new(logs)).send(0, "abc")
    await logs.forget_before(0, 2)
    async with Session(logs, {0: offset}) as session:
        await session.app.wait_until_stopped()
        assert isinstance(session.app.crash_reason, OffsetOutOfRangeError)


async def test_each_partition_is_one_members_and_goes_to_another_when_he_leaves(logs: Logs) -> None:
    sender = await Sender.new(logs)
    both = frozenset({(logs.topic, 0), (logs.topic, 1)})

    async def held() -> dict[str, frozenset[positions.TopicPartition]]:
        return {one.client_id: one.partitions for one in (await logs.cluster.group(logs.group)).members}

    async with Session(logs, {}, name="one") as one:
        assert await eventually(held, lambda found: any(found.values())) == {"one": both}
        async with Session(logs, {}, name="other"):
            found = await eventually(held, lambda found: len(found) == 2 and all(found.values()))
            assert sorted(map(len, found.values())) == [1, 1]
            assert frozenset().union(*found.values()) == both
        await eventually(held, lambda found: found == {"one": both})
        for partition in range(PARTITIONS):
            await sender.send(partition, "z")
            await one.reads(partition, "z")


# A new leader.


@pytest.mark.parametrize("kind", ["memory", "kafka"])
async def test_a_new_leader_lacks_whole_batches_and_knows_their_senders_no_more(
    kafka: Broker, kind: str
) -> None:
    if kind == "memory":
        await _cut_and_grown_again(InMemory(), None)
        return
    if not isinstance(kafka, Kafka):
        pytest.skip("cuts files of the broker, which in a container are out of reach")
    async with in_kafka(kafka) as logs:
        await _cut_and_grown_again(logs, kafka)


async def _cut_and_grown_again(logs: Any, kafka: Kafka | None) -> None:
    """Of `ab`, `cd` and another's `ef` the last two are lost."""
    sender, other = await Sender.new(logs), await Sender.new(logs)
    await sender.send(0, "ab")
    epoch = await leader_epoch(logs)
    if kafka:
        file = kafka.directory / "data" / f"{logs.topic}-0" / f"{0:020}.log"
        size = file.stat().st_size
    await sender.send(0, "cd")
    await other.send(0, "ef")
    if kafka:
        kafka.kill()
        os.truncate(file, size)
        kafka.start()
        await asyncio.to_thread(kafka.wait_ready)
        logs.cluster.close()
    else:
        logs.log.elect((logs.topic, 0), lost=3)
    assert await once_started(partial(ends, logs, 0)) == (0, 2, 2)
    newer = await leader_epoch(logs)
    assert newer > epoch
    with pytest.raises(OutOfOrderSequenceNumber):
        await sender.send(0, "gh", first=4)
    await sender.send(0, "ab", first=0)
    await sender.send(0, "cd", first=2)
    await other.send(0, "gh", first=2)
    chunk = await logs.fetch(0, 0, limit=10)
    assert "".join(record.value.decode() for record in chunk) == "abcdgh"
    assert [chunk.leader_epoch(offset) for offset in range(6)] == [epoch] * 2 + [newer] * 4
    assert (await logs.cluster.records({(logs.topic, 0): 2}))[logs.topic, 0].leader_epoch == newer


# Words the tests are written in.


class Sender:
    """One producer's id, whose numbers go on by themselves unless another is said."""

    def __init__(self, logs: Logs, id: int, epoch: int) -> None:
        self._logs, self._id, self.epoch = logs, id, epoch
        self._next = 0

    @classmethod
    async def new(cls, logs: Logs) -> "Sender":
        return cls(logs, *await once_started(logs.cluster.new_producer_id))

    async def send(self, partition: int, values: str, *, first: int | None = None) -> None:
        """As one batch, a record for each letter. Raises what the leader answers instead."""
        first = self._next if first is None else first
        builder = DefaultRecordBatchBuilder(2, 0, False, self._id, self.epoch, first, 1 << 16)
        for number, record in enumerate(a_record_each(values)):
            builder.append(number, None, record.key, record.value, record.headers)
        topic = self._logs.topic
        leader = (await self._logs.cluster.metadata([topic])).leader(topic, partition)
        told = await self._logs.cluster.produce(leader, topic, {partition: bytes(builder.build())})
        for error in told.values():
            raise error
        self._next = (first + len(values)) % SEQUENCE_NUMBERS


async def once_started(ask: Callable[[], Awaitable[T]]) -> T:
    """Its answer, when a broker that has just started has begun with everything."""

    async def answer() -> T | None:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
            return None

    found = await eventually(answer, lambda found: found is not None)
    assert found is not None
    return found


def a_record_each(values: Iterable[str]) -> list[Record]:
    return [Record(b"key", value.encode(), [("name", b"value"), ("empty", None)]) for value in values]


async def ends(logs: Logs, partition: int) -> tuple[int, int, int]:
    """Where it begins, ends, and ends for who reads what is committed."""
    place = logs.topic, partition
    looks = (EARLIEST, False), (LATEST, False), (LATEST, True)
    begin, end, stable = [
        (await logs.cluster.offsets([place], when, committed=committed))[place][0]
        for when, committed in looks
    ]
    return begin, end, stable


async def leader_epoch(logs: Logs) -> int:
    return (await logs.cluster.metadata([logs.topic])).topic(logs.topic).leader_epochs[0]


async def read(logs: Logs, partition: int, *, begin: int, limit: int) -> AsyncIterator[Fetched]:
    """Chunk by chunk to the end, each from where the last one ended."""
    _, _, stable = await ends(logs, partition)
    while begin < stable:
        chunk = await logs.fetch(partition, begin, limit)
        assert chunk.begin == begin
        begin = chunk.end
        yield chunk


class Session:
    """A member of the group, which begins at these offsets, or at 0, while it is used as a context."""

    def __init__(self, logs: Logs, begin: Mapping[int, int], name: str = "one") -> None:
        self.chunks: dict[int, list[Fetched]] = {partition: [] for partition in range(PARTITIONS)}
        self.app = logs.app(name)
        self._begin = begin
        self.app.consume([logs.topic], self._listen, self._next_offsets)

    async def _next_offsets(
        self, places: set[positions.TopicPartition]
    ) -> Mapping[positions.TopicPartition, int]:
        return {place: self._begin.get(place[1], 0) for place in places}

    async def _listen(self, stream: Stream) -> None:
        async for event in stream.noack().events():
            for (_, partition), chunk in event.message.value.items():
                self.chunks[partition].append(chunk)

    async def reads(self, partition: int, values: str) -> None:
        """Returns once it has been given these, and no others before."""

        async def given() -> str:
            return "".join(record.value.decode() for chunk in self.chunks[partition] for record in chunk)

        assert await eventually(given, lambda found: len(found) >= len(values)) == values

    async def __aenter__(self) -> "Session":
        await self.app.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.app.stop()
