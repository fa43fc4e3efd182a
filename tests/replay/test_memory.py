"""What a replay holds in memory follows the keys that are open, and not the length of the log."""

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from billing_service.state import Leg
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.replay.sources import on_disk, recording
from choreo.replay.sources.on_disk import ListsOnDisk, OnDisk, rows_on_disk
from choreo.replay.sources.recording import Recording
from choreo.replay.verify.closed_loop import closed_loop
from choreo.replay.verify.findings import Tally
from choreo.replay.verify.shuffle import shuffle
from choreo.replay.verify.verify import verify
from tests.replay.constructed import Constructed
from tests.replay.many_keys import recording_of, story_of

Replay = Callable[..., Coroutine[Any, Any, Tally]]

_ONE_AFTER_ANOTHER = 10_000
"""Seconds after which the next key begins: each is over by then."""


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "IN_MEMORY", 20)
    monkeypatch.setattr(recording, "_AT_ONCE", 50)


def test_verify_of_a_log_four_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    short = recording_of([story_of(number, 6) for number in range(2)], tmp_path / "short")
    long = recording_of([story_of(number, 24) for number in range(2)], tmp_path / "long")
    takes_no_more(verify, short, long)


def test_a_closed_loop_of_four_times_as_many_keys_takes_no_more_memory(tmp_path: Path) -> None:
    stories = [story_of(number, 8, begins=number * _ONE_AFTER_ANOTHER) for number in range(8)]
    few, more = recording_of(stories[:2], tmp_path / "few"), recording_of(stories, tmp_path / "more")
    takes_no_more(closed_loop, few, more)


def takes_no_more(replay: Replay, less: Path, more: Path) -> None:
    peak_of(replay, more)  # what is made once
    small, large = peak_of(replay, less), peak_of(replay, more)
    assert large < 1.5 * small, f"{small} bytes, and {large}"


def peak_of(replay: Replay, path: Path) -> int:
    source = Recording(path)
    known = services(source.cut.settings)
    tracemalloc.start()
    try:
        tally = asyncio.run(replay(source, {name: known[name] for name in source.cut.services}))
        assert not tally.findings
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_rows_do_not_keep_a_key_from_being_shuffled(tmp_path: Path) -> None:
    """What a handler may not open may not be opened beside it either."""
    shop = Constructed()
    for _ in range(30):
        shop.place(1)
    while shop.publish("order") and shop.deliver("billing", "order"):
        pass
    shop.settle()  # the registration comes at last
    source = Recording(shop.recorded(tmp_path / "one"))
    billing = {"billing": services(source.cut.settings)["billing"]}
    tally = asyncio.run(shuffle(source, billing, 1, lambda *_: None))
    assert not (tally.races or tally.lacks)
    assert tally.counts["billing orders"] == 1


def test_rows_on_disk_are_found_by_their_name_and_are_what_they_were() -> None:
    (mapping,) = (one for one in services(Settings())["billing"].store.mappings if one.row is Leg)
    at = datetime(2030, 1, 1, tzinfo=UTC)
    legs = [
        Leg(UUID(int=number), side, UUID(int=1), "deposit", number, number, None, at, number)
        for number in range(100)
        for side in ("world", "customer")
    ]
    kept = rows_on_disk(mapping)
    for leg in legs:
        kept[leg.entry_id, leg.side] = leg
    changed = legs[6] = replace(legs[6], order_id=UUID(int=6))
    kept[changed.entry_id, changed.side] = changed
    gone = legs.pop(8)
    del kept[gone.entry_id, gone.side]
    assert kept[changed.entry_id, "world"] == changed
    assert (gone.entry_id, gone.side) not in kept
    assert len(kept) == len(legs)
    assert {leg.entry_id.int for leg in kept.values()} == set(range(100))
    assert dict(kept.items()) == {(leg.entry_id, leg.side): leg for leg in legs}


def test_what_cannot_be_written_stays_in_memory() -> None:
    kept: OnDisk[object] = OnDisk(lambda value: orjson.dumps(value), orjson.loads)
    for number in range(100):
        kept[number] = object()
    assert all(number in kept for number in range(100))


def test_a_list_on_disk_has_what_was_added_in_its_order() -> None:
    lists: ListsOnDisk[int] = ListsOnDisk(orjson.dumps, orjson.loads)
    for number in range(100):
        lists.add(number % 3, number)
    assert list(lists) == [0, 1, 2]
    assert lists.of(1) == [number for number in range(100) if number % 3 == 1]
    assert lists.of(4) == []
