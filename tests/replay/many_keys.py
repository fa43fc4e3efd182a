"""A recording of many keys, without a broker: each key's story is a `Constructed` of its own."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table

from choreo.message.codec import TopicRecord, encode
from choreo.message.envelope import derived_id
from choreo.replay.sources.recording import Writer
from choreo.replay.sources.records import Cut, Item, JournalEntry, Span
from choreo.replay.verify.digesting import Digesting
from tests.replay.constructed import NAMES, OWN, Constructed
from tests.services import TOPICS
from tests.unit import choreography, facts, spec

_REQUESTS_OF_KEY = 1_000_000


def story_of(number: int, orders: int, begins: int = 0) -> Constructed:
    """Orders of one key are paid, and every second one is cancelled."""

    def lives(shop: Constructed) -> None:
        for order in range(orders):
            shop.deposit(100_00)
            shop.settle()
            shop.place(100_00)
            shop.settle()
            if order % 2:
                shop.cancel(order)
                shop.settle()

    return life_of(number, lives, begins)


def life_of(number: int, lives: Callable[[Constructed], None], begins: int = 0) -> Constructed:
    """That of one key, which registers after so many seconds."""
    user = derived_id("user", number)
    registered = facts.registered.model_copy(update={"user_id": user, "login": f"ada{number}"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choreography, "ADA", user)
        shop = Constructed()
        shop.seconds, shop.requests = begins, number * _REQUESTS_OF_KEY
        at = spec.event(registered, begins)
        shop.topics["user"].append(replace(at, id=derived_id("registered", number), sequence=1))
        shop.settle()
        lives(shop)
        shop.settle()
    return shop


def recording_of(stories: Sequence[Constructed], path: Path) -> Path:
    """Writes them as one recording with digests, in the order of time."""
    timed: list[tuple[datetime, int, int, Item]] = []
    for number, shop in enumerate(stories):
        for name, events in shop.topics.items():
            for offset, event in enumerate(events):
                record = TopicRecord(TOPICS[name], 0, offset, 0, True, encode(event))
                timed.append((event.time, 0, number, record))
        for service in shop.journaling.values():
            timed += [(entry.now, 1, number, entry) for entry in service.journal]
    timed.sort(key=lambda one: one[:3])
    items, ends = _in_one_log(timed)
    cut = Cut({(topic, 0): Span(0, end, end) for topic, end in ends.items()}, NAMES, "", OWN)
    digesting = Digesting(cut, {name: Constructed().described(name) for name in NAMES})
    with Writer(path, digesting.cut, None, digesting.add) as writer:
        for begin in range(0, len(items), 1000):
            writer.write(items[begin : begin + 1000])
        asyncio.run(_write_rows(writer, stories, digesting))
        writer.finish()
    return path


async def _write_rows(writer: Writer, stories: Sequence[Constructed], digesting: Digesting) -> None:
    for name in NAMES:
        for mapping in Constructed().described(name).store.mappings:
            expected = digesting.rows_of(name, mapping.table)
            await writer.digest(_Tables(stories), name, mapping.table, expected)


class _Tables(Constructed):
    """The tables of all stories."""

    def __init__(self, stories: Sequence[Constructed]) -> None:
        super().__init__()
        self._stories = stories

    async def rows(self, service: str, table: Table) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        for story in self._stories:
            async for page in story.rows(service, table):
                yield page


def _in_one_log(timed: Sequence[tuple[datetime, int, int, Item]]) -> tuple[list[Item], dict[str, int]]:
    """Gives records and entries the places that they have beside those of other keys."""
    ends = dict.fromkeys(TOPICS.values(), 0)
    positions: defaultdict[str, int] = defaultdict(int)
    places: dict[tuple[int, str | None, int | None], int] = {}
    items: list[Item] = []
    for _, _, number, item in timed:
        if isinstance(item, TopicRecord):
            places[number, item.topic, item.offset] = ends[item.topic]
            items.append(replace(item, offset=ends[item.topic]))
            ends[item.topic] += 1
        elif isinstance(item, JournalEntry):
            positions[item.service] += 1
            offset = None if item.topic is None else places[number, item.topic, item.offset]
            items.append(replace(item, position=positions[item.service], offset=offset))
    return items, ends
