"""What a session of the consumer asks and takes for granted. Kafka and Postgres are played."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import LeaderNotAvailableError

from choreo.chassis.kafka import catch_up, cluster, consumer, log_reader
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import FetchedRecord
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.kafka.cluster import Cluster, Group, Member, new_client_id
from choreo.chassis.kafka.consumer import Consumer
from choreo.chassis.kafka.relay import _Shard
from choreo.chassis.kafka.topic_log import PartitionLog
from choreo.chassis.observe.health import Job
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import PositionGap
from choreo.chassis.transaction.positions import Expected, Position, TopicPartition
from choreo.message.codec import Record

A, B, C = ("topic", 0), ("topic", 1), ("topic", 2)
ACCESS = KafkaAccess("host:9092")


def a_consumer(instance: str | None = None) -> Consumer:
    nothing: Any = None
    return Consumer(
        "billing",
        {"topic": frozenset()},
        nothing,
        nothing,
        access=ACCESS,
        group="billing",
        instance=instance,
        needs=(),
        job=Job(),
        meter=nothing,
    )


@pytest.mark.parametrize(("instance", "dismissed"), [("0", ["billing 0"]), (None, [])])
async def test_only_who_has_a_name_of_its_own_sends_its_predecessors_away(
    monkeypatch: pytest.MonkeyPatch, instance: str | None, dismissed: list[str]
) -> None:
    """Who has none would send away the others."""
    members = [
        Member(f"billing {number}", new_client_id("billing", number), "host", frozenset())
        for number in ("0", "1")
    ]
    sent_away: list[str] = []

    class Kafka:
        async def group(self, name: str) -> Group:
            return Group("Stable", members, None)

        async def dismiss(self, group: str, member: Member) -> None:
            sent_away.append(member.id)

    @asynccontextmanager
    async def asking(access: KafkaAccess) -> AsyncIterator[Kafka]:
        yield Kafka()

    monkeypatch.setattr(consumer, "asking", asking)
    await a_consumer(instance)._dismiss_predecessors()
    assert sent_away == dismissed


async def test_what_is_on_its_way_or_not_assigned_is_not_found_to_be_as_it_was_read() -> None:
    """Of both the position may move while the log is looked at; of what begins it is compared even so."""
    one: Any = a_consumer()

    async def look(begun: Any) -> tuple[Any, Any]:
        assert begun == {A, B}
        return {A: position(A, 7), B: position(B, 8)}, {place: a_log(place, 9) for place in (A, B, C)}

    one._look = look
    begun: dict[TopicPartition, Expected] = {}
    ends = {A: Expected(7, 0)}
    handover = cast(Any, SimpleNamespace(read_up_to=ends.get, begin=begun.update))
    assert await one._next_offsets(handover, {A, B}) == {A: 7, B: 8}
    assert begun == {A: Expected(7, -1), B: Expected(8, -1)}
    assert one._compared == {A: 0}


@pytest.mark.parametrize(
    ("after", "is_compared"),
    [(Expected(7, 0), True), (Expected(8, 0), False), (None, False)],
    ids=["nothing came", "something came and is finished", "something is on its way"],
)
async def test_what_comes_while_it_is_looked_at_is_looked_at_again(
    after: Expected | None, is_compared: bool
) -> None:
    one: Any = a_consumer()
    one._compared = {A: 0}
    ends: list[Expected | None] = [after, Expected(7, 0)]

    async def look(begun: Any) -> tuple[Any, Any]:
        return {}, {A: replace(a_log(A, 9), leader_epoch=1)}

    one._look = look
    await one._look_again(SimpleNamespace(read_up_to=lambda place: ends.pop()))
    assert one._compared == {A: 1 if is_compared else 0}


@pytest.mark.parametrize(
    ("leader", "found", "refused"),
    [
        (4, 2, None),
        (5, 2, None),
        (4, None, None),
        (4, 3, "another thing at 6"),
        (4, 1, "another thing at 6"),
        (3, 2, "an older one is told"),
    ],
    ids=["as it was read", "a newer leader", "forgotten", "of a newer", "of an older", "not told of"],
)
async def test_what_a_new_leader_appended_stands_behind_what_was_read(
    monkeypatch: pytest.MonkeyPatch, leader: int, found: int | None, refused: str | None
) -> None:
    """Nobody waits for the kernel: what was read may not be finished for long."""
    monkeypatch.setattr(log_reader, "_RETRY_TIMEOUT_SECONDS", 0.01)

    class Kafka:
        async def metadata(self, topics: list[str]) -> Any:
            return SimpleNamespace(topic=lambda name: SimpleNamespace(leader_epochs={A[1]: leader}))

        async def records(self, wanted: dict[TopicPartition, int]) -> dict[TopicPartition, FetchedRecord]:
            assert wanted == {A: 6}
            return {} if found is None else {A: FetchedRecord(Record(None, None, []), found)}

    @asynccontextmanager
    async def asking(access: KafkaAccess) -> AsyncIterator[Kafka]:
        yield Kafka()

    monkeypatch.setattr(consumer, "asking", asking)
    checked = a_consumer()._check_end(A, Expected(7, 2), 4)
    if refused:
        with pytest.raises((PositionGap, LeaderNotAvailableError), match=refused):
            await checked
    else:
        await checked


def position(place: TopicPartition, next_offset: int) -> Position:
    return Position(*place, next_offset, "id", "cluster")


def a_log(place: TopicPartition, latest: int) -> PartitionLog:
    return PartitionLog(position(place, 0), 0, latest, latest, 0)


async def test_a_partition_is_caught_up_with_once_it_is_read_to_where_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = iter([{A: 5, B: 1}, {A: 5, B: 1}, {A: 5, B: 3}])
    known = next(reads)

    @asynccontextmanager
    async def raw_connection(engine: object) -> AsyncIterator[None]:
        yield None

    async def read(conn: object, topics: object) -> list[Position]:
        nonlocal known
        known = next(reads, known)
        return [position(place, offset) for place, offset in known.items()]

    async def describe() -> dict[TopicPartition, PartitionLog]:
        return {A: a_log(A, 5), B: a_log(B, 4), C: a_log(C, 0)}

    monkeypatch.setattr(catch_up, "raw_connection", raw_connection)
    monkeypatch.setattr(positions, "read", read)
    monkeypatch.setattr(catch_up, "_LOOK_AGAIN", 0.0)
    nothing: Any = None
    caught_up = CatchUp("order", "topic", nothing, describe=describe, partition_of=lambda key: 0)
    assert await caught_up.read(0.05) == {0, 2}, "of the second one record is not read"
    known = {A: 5, B: 4}
    assert await caught_up.read(60.0) == {0, 1, 2}


async def test_a_host_that_is_away_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = SimpleNamespace(connected=lambda: False, close=lambda: None)

    async def create_conn(host: str, *_: object, **how: object) -> Any:
        if host != "two":
            raise ConnectionRefusedError(host)
        return connection

    monkeypatch.setattr(cluster, "create_conn", create_conn)
    async with Cluster(KafkaAccess("one:1,two:2,three:3")) as asked:
        assert await asked._any() is connection
    async with Cluster(KafkaAccess("one:1,three:3")) as asked:
        with pytest.raises(ConnectionRefusedError):
            await asked._any()


async def test_who_asks_a_broker_at_the_same_time_shares_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    async def create_conn(*_: object, **how: object) -> Any:
        await asyncio.sleep(0)
        made.append(SimpleNamespace(connected=lambda: True))
        return made[-1]

    monkeypatch.setattr(cluster, "create_conn", create_conn)
    asked = Cluster(KafkaAccess("one:1"))
    connections = await asyncio.gather(*(asked._connected(("one", 1)) for _ in range(3)))
    assert connections == [made[0]] * 3
    assert len(made) == 1


async def test_whoever_waits_for_an_acknowledgement_is_told() -> None:
    class Producer:
        async def send(self, rows: list[Any]) -> int:
            return len(rows)

    ends: list[bool] = []
    shard = _Shard(cast(Any, Producer()), lambda: ends.append(shard.is_done), lambda: None)
    rows: Any = ["a fact", "another"]
    shard.send(rows)
    assert shard.sending
    await shard.sending
    assert ends == [True]
    assert list(shard.acknowledged()) == rows
    assert not shard.acknowledged(), "once"
