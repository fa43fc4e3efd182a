"""What a session hands to the kernel, and what it finds that nobody reads. Kafka and kernel are played."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord

from choreo.chassis.kafka import handover
from choreo.chassis.kafka.aiokafka_internals import Fetched
from choreo.chassis.kafka.cluster import Group, Member, new_client_id
from choreo.chassis.kafka.handover import Handover, Stalled, Unread
from choreo.chassis.kafka.topic_log import PartitionLog
from choreo.chassis.transaction.inputs import Heard, PositionGap
from choreo.chassis.transaction.positions import Expected, Position, TopicPartition

A, B = ("topic", 0), ("topic", 1)


@dataclass
class Kernel:
    heard: list[Heard] = field(default_factory=list)

    async def room(self) -> None: ...

    def hear(self, heard: Heard) -> None:
        self.heard.append(heard)


@dataclass
class App:
    """Of Faust, and its stream."""

    paused: set[TopicPartition] = field(default_factory=set)
    messages: deque[Any] = field(default_factory=deque)
    acknowledged: list[tuple[TopicPartition, int]] = field(default_factory=list)

    def pause(self, place: TopicPartition) -> None:
        self.paused.add(place)

    def resume(self, place: TopicPartition) -> None:
        self.paused.discard(place)

    def acknowledge(self, place: TopicPartition, next_offset: int) -> None:
        self.acknowledged.append((place, next_offset))

    def noack(self) -> "App":
        return self

    async def events(self) -> AsyncIterator[Any]:
        while self.messages:
            yield self.messages.popleft()


@dataclass
class Message:
    """And the event of the stream that it came with."""

    value: dict[TopicPartition, Fetched]

    @property
    def message(self) -> "Message":
        return self


def chunk(place: TopicPartition, begin: int, offsets: range | list[int], end: int, epoch: int = 3) -> Fetched:
    records = [ConsumerRecord(*place, n, 0, 0, b"key", b"{}", None, 0, 0, []) for n in offsets]
    return Fetched(records, begin, end, [(begin, epoch)])


class Session:
    def __init__(self) -> None:
        self.app, self.kernel, self.progress, self.checked = App(), Kernel(), 0, list[tuple[Any, ...]]()
        hears: Any = {"topic": frozenset()}
        self.handover = Handover(cast(Any, self.kernel), hears, cast(Any, self.app), self._got_on)

    def _got_on(self) -> None:
        self.progress += 1

    def fetched(
        self, place: TopicPartition, begin: int, offsets: range | list[int], end: int, epoch: int = 3
    ) -> None:
        self.app.messages.append(Message({place: chunk(place, begin, offsets, end, epoch)}))

    async def listen(self) -> None:
        async def check(place: TopicPartition, end: Expected, epoch: int) -> None:
            self.checked.append((place, end, epoch))

        await self.handover.listen(cast(Any, self.app), check=check)

    async def finish(self, count: int, error: Exception | None = None) -> None:
        """The kernel commits the first of what it has."""
        for heard in self.kernel.heard[:count]:
            heard.done.set_exception(error) if error else heard.done.set_result(None)
        del self.kernel.heard[:count]
        await asyncio.sleep(0)


async def test_a_record_says_from_where_on_there_was_none() -> None:
    session = Session()
    session.fetched(A, 2, [4, 5, 9], 12)
    await session.listen()
    told = [(heard.fetched_from, heard.offset, heard.is_marker) for heard in session.kernel.heard]
    assert told == [(2, 4, False), (5, 5, False), (6, 9, False), (10, 11, True)]
    assert [(heard.epoch_before, heard.leader_epoch) for heard in session.kernel.heard] == [
        (-1, 3),
        (3, 3),
        (3, 3),
        (3, 3),
    ]


async def test_a_record_says_which_leader_s_it_was_read_behind() -> None:
    """Of what the session read before, if that is what lies before it."""
    session = Session()
    session.handover.begin({A: Expected(2, 1)})
    session.fetched(A, 2, [2, 3], 5)
    session.fetched(A, 5, [5], 6)
    session.fetched(A, 6, [6], 7, epoch=4)
    session.fetched(A, 9, [9], 10, epoch=5)  # what lies between is lost
    session.fetched(B, 0, [0], 1)
    await session.listen()
    told = [(heard.offset, heard.epoch_before) for heard in session.kernel.heard]
    assert told == [(2, 1), (3, 3), (4, 3), (5, 3), (6, 3), (9, -1), (0, -1)]
    assert session.checked == [(A, Expected(2, 1), 3), (A, Expected(6, 3), 4)]


async def test_a_chunk_is_acknowledged_with_its_last_record_and_by_what_lies_behind_it() -> None:
    session = Session()
    session.fetched(A, 0, range(3), 4)
    session.fetched(A, 4, [], 6)
    await session.listen()
    await session.finish(3)
    assert session.app.acknowledged == []
    await session.finish(1)
    assert session.app.acknowledged == [(A, 4)]
    await session.finish(1)
    assert (session.app.acknowledged, session.progress) == ([(A, 4), (A, 6)], 5)


async def test_of_one_fetch_each_partition_is_acknowledged_by_itself() -> None:
    session = Session()
    session.app.messages.append(Message({A: chunk(A, 0, range(2), 2), B: chunk(B, 7, [7], 9)}))
    await session.listen()
    told = [(heard.partition, heard.fetched_from, heard.offset) for heard in session.kernel.heard]
    assert told == [(0, 0, 0), (0, 1, 1), (1, 7, 7), (1, 8, 8)]
    await session.finish(3)
    assert session.app.acknowledged == [(A, 2)]
    await session.finish(1)
    assert session.app.acknowledged == [(A, 2), (B, 9)]


async def test_an_error_ends_the_session_and_gives_back_what_is_left() -> None:
    session = Session()
    session.fetched(A, 0, range(3), 3)
    await session.listen()
    first, second, third = session.kernel.heard
    await session.finish(1)
    await session.finish(1, PositionGap("a hole"))
    session.handover.close()
    assert first.done.result() is None and third.done.cancelled()
    with pytest.raises(PositionGap):
        session.handover.ended.result()
    assert session.app.acknowledged == [] and second.done.exception()


async def test_a_partition_that_does_not_get_on_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was its leader meanwhile."""
    monkeypatch.setattr(handover, "PARTITION_RECORDS", 2)
    monkeypatch.setattr(handover, "PARTITION_WAIT_SECONDS", 0.01)
    session = Session()
    for begin in (0, 2, 4):
        session.fetched(A, begin, range(begin, begin + 2), begin + 2, epoch=begin)
    session.fetched(B, 0, [0], 1)
    await session.listen()
    assert session.app.paused == {A}
    assert [heard.partition for heard in session.kernel.heard] == [0] * 6 + [1]
    await session.finish(5)
    assert session.app.paused == set()


async def test_what_waits_to_be_given_to_the_kernel_was_read_and_is_not_finished() -> None:
    """A look at the log meanwhile, as at an assignment, does not hold for what comes behind it."""
    session, is_free = Session(), asyncio.Event()
    session.kernel.room = is_free.wait  # type: ignore[assignment, method-assign]
    session.fetched(A, 0, [0], 1)
    listening = asyncio.ensure_future(session.listen())
    await asyncio.sleep(0)
    assert session.handover.has(A)
    assert not session.handover.has(B)
    is_free.set()
    await listening
    await session.finish(1)
    assert not session.handover.has(A)


# What nobody reads.


def group(held: dict[TopicPartition, str], state: str = "Stable") -> Group:
    clients = set(held.values())
    members = [
        Member(
            client, client, "/10.0.0.7", frozenset(place for place, name in held.items() if name == client)
        )
        for client in clients
    ]
    return Group(state, members, None)


def log(stable: int = 5, latest: int = 5) -> dict[TopicPartition, PartitionLog]:
    return {A: PartitionLog(Position(*A, 0, "", ""), 0, latest, stable, 0)}


KNOWN = {A: Position(*A, 3, "", "")}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "STALLED_SECONDS", -1.0)


async def test_a_session_that_reads_nothing_of_what_it_holds_or_nobody_holds_has_stalled(
    at_once: None,
) -> None:
    for held in ({A: "me"}, {}):
        with pytest.raises(Stalled, match=r"topic\[0\] has 2 records"):
            Unread("me", Session().handover).look(KNOWN, log(), group(held))


async def test_what_another_holds_or_nobody_may_read_yet_is_no_work(at_once: None) -> None:
    unread = Unread("me", Session().handover)
    assert unread.look(KNOWN, log(), group({A: "another"})) == 0
    assert unread.look(KNOWN, log(), group({}, "PreparingRebalance")) == 0
    assert unread.look(KNOWN, log(stable=3), group({A: "me"})) == 0


async def test_what_the_kernel_has_is_work_and_no_stall(at_once: None) -> None:
    session = Session()
    session.fetched(A, 3, [3, 4], 5)
    await session.listen()
    unread = Unread("me", session.handover)
    assert [unread.look(KNOWN, log(), group({A: "me"})) for _ in range(2)] == [2, 2]
    await session.finish(2)
    with pytest.raises(Stalled):
        unread.look(KNOWN, log(), group({A: "me"}))


async def test_who_gets_on_has_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = Unread("me", Session().handover)
    assert unread.look({A: Position(*A, 3, "", "")}, log(), group({A: "me"})) == 2
    monkeypatch.setattr(handover, "STALLED_SECONDS", 0.0)
    assert unread.look({A: Position(*A, 4, "", "")}, log(), group({A: "me"})) == 1


def test_whoever_is_none_of_the_services_processes_is_named() -> None:
    ours = new_client_id("billing", "here:8003")
    assert group({A: ours, B: new_client_id("billing", None)}).strangers("billing") == []
    (told,) = group({A: "rdkafka", B: ours}).strangers("billing")
    assert told.startswith("rdkafka at 10.0.0.7 is in the consumer group of billing")
    assert "holds 1 of its partitions:" in told
    assert len(group({A: ours}).strangers("order")) == 1


def test_an_earlier_session_of_the_same_instance_is_no_other_process() -> None:
    ours = new_client_id("billing", "here:8003")
    others = [new_client_id("billing", other) for other in ("here:80031", "there:8003", "here", None)]
    found = group({(str(number), 0): client for number, client in enumerate((ours, *others))})
    assert [member.client_id for member in found.predecessors("billing", "here:8003")] == [ours]
    assert found.predecessors("order", "here:8003") == []
