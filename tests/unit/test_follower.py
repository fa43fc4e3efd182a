"""What is looked up again, what is given up, and where it goes on: given journals that are not there."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from choreo.chassis.settings import Settings
from choreo.message.envelope import derived_id
from choreo.operations.reading import traces
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.traces import AGAIN, CollectorAway, Follower
from choreo.replay.trace.journals import Journal
from choreo.replay.trace.spans import Span
from choreo.replay.trace.tail import Written
from choreo.replay.trace.trace import Material, UnpublishedEvent
from tests.unit.spec import START
from tests.unit.test_hops import at, command


@dataclass
class World:
    """One journal, and what is known of its flows."""

    written: list[Written] = field(default_factory=list)
    """Since the last look."""
    now: datetime = START
    unpublished: set[UUID] = field(default_factory=set)
    lost: set[UUID] = field(default_factory=set)
    looked_up: list[set[UUID]] = field(default_factory=list)
    tails: list[datetime] = field(default_factory=list)
    """Since when they were begun."""
    taken: list[str] = field(default_factory=list)
    is_away: bool = False

    def write(self, name: str, ms: float) -> UUID:
        flow = derived_id(name)
        self.written.append(Written(flow, flow, at(ms), "applied", 0))
        return flow

    def take(self, spans: Sequence[Span]) -> None:
        if self.is_away:
            raise CollectorAway("no time")
        self.taken += [span.id for span in spans]

    async def look_up(self, here: object, conns: object, flows: Collection[UUID]) -> Material:
        self.looked_up.append(set(flows))
        entries = [
            replace(command("PlaceOrder", step=0, received=1, decided=2, committed=4, id=flow), flow=flow)
            for flow in flows
        ]
        return Material(
            flows=flows,
            events=(),
            journals={"order": Journal(entries)},
            unpublished=[
                UnpublishedEvent(
                    type="OrderCreated", source="order", key="a", sequence=1, flow=flow, cause=None, data={}
                )
                for flow in self.unpublished & {*flows}
            ],
            lost=self.lost,
            now=self.now,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    class FakeTail:
        is_at_the_end = True

        def __init__(self, since: datetime) -> None:
            self.until = since
            world.tails.append(since)

        async def look(self, conn: object) -> list[Written]:
            self.until = world.now
            new, world.written = world.written, []
            return new

    @asynccontextmanager
    async def sessions(urls: object) -> AsyncIterator[dict[str, Any]]:
        async def rollback() -> None: ...

        yield {"order": SimpleNamespace(rollback=rollback)}

    monkeypatch.setattr(traces, "Tail", FakeTail)
    monkeypatch.setattr(traces, "sessions", sessions)
    monkeypatch.setattr(traces, "look_up", world.look_up)
    return world


def follower(world: World) -> Follower:
    return Follower(Installation(Settings.model_construct(), {"order": ""}), world.take, at(0))


async def test_what_is_not_in_kafka_yet_is_looked_for_until_it_is_and_holds_up_nobody(world: World) -> None:
    following = follower(world)
    stuck = world.write("stuck", 5)
    world.unpublished, world.now = {stuck}, at(10)
    await following.look()
    await following.look()
    world.now = at(10**7)
    other = world.write("other", 10**7 - 1)
    await following.look()
    assert following.told_until == at(5) and not following.has_told(at(100))
    await following.look()
    assert world.looked_up[-1] == {stuck, other}
    world.unpublished = set()
    await following.look()
    assert (following.told_until, following.has_told(world.now)) == (world.now, True)
    await following.look()
    assert world.looked_up[-1] == {stuck} and len(set(world.taken)) == len(world.taken), "and no more"


async def test_what_will_never_be_in_kafka_is_given_up_after_a_minute(world: World) -> None:
    following = follower(world)
    world.lost, world.now = {world.write("lost", 5)}, at(10)
    for _ in range(3):
        await following.look()
    assert len(world.looked_up) == 2 and following.told_until == at(5)
    world.now = at(61_000)
    await following.look()
    assert following.told_until == world.now


async def test_while_nobody_takes_them_it_goes_on_from_where_it_stood_and_gathers_nothing(
    world: World,
) -> None:
    following = follower(world)
    world.now, world.is_away = at(10), True
    for _ in range(3):
        world.write("first", 5)
        await following.look()
        with pytest.raises(CollectorAway):
            await following.look()
    assert following.told_until == at(5)
    assert set(world.tails[1:]) == {at(5) - AGAIN}
    world.is_away = False
    world.write("first", 5)
    await following.look()
    await following.look()
    assert len(world.taken) == following.count == 2 and following.told_until == at(10)


async def test_of_many_the_oldest_are_told_first_and_no_more_is_read_than_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_AT_ONCE", 2)
    monkeypatch.setattr(traces, "_MOST_KNOWN", 3)
    following = follower(world)
    flows = [world.write(f"flow {number}", 50 - number) for number in range(5)]
    world.now = at(100)
    assert not await following.look(), "what was just written is mostly not over"
    world.write("later", 90)
    assert await following.look()
    assert world.looked_up == [{flows[4], flows[3]}] and world.written, "first those that are known"
    assert following.told_until == at(48)
