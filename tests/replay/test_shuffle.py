"""Other orders of what was heard come to the same; where they do not, the two that race are named."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from choreo.cli.debugging.shuffle import tally_of
from choreo.cli.main import app
from choreo.errors import Incomplete, UsageError
from choreo.message.codec import TopicRecord
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import Item
from choreo.replay.verify import shuffle
from choreo.replay.verify.shuffle import Side, Tally
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed
from tests.shop import Shop
from tests.unit.test_choreography import AnyOrder


def tally(shop: Constructed, shuffles: int = 20) -> Tally:
    return asyncio.run(tally_of(shop, NAMES, shuffles))


def invoked(*arguments: object) -> int:
    """Its exit code: a verb that has nothing else to say ends with None."""
    return int(app([*map(str, arguments)], standalone_mode=False) or 0)


# -- the shop's own code -----------------------------------------------------------------------------


class AnyHistory(AnyOrder):
    def teardown(self) -> None:
        assert isinstance(self.shop, Constructed)
        self.shop.settle()
        found = tally(self.shop)
        assert (found.races, found.lacks) == ([], [])


class Recorded(Constructed):
    def __init__(self, _: object) -> None:
        super().__init__()


AnyHistory.world = Recorded
AnyHistory.TestCase.settings = settings(AnyOrder.TestCase.settings, max_examples=60)
test_facts_of_different_topics_in_one_gap_commute_in_every_service = AnyHistory.TestCase


PLANTS = [plants.the_last_writer_wins, plants.a_gift_for_who_has_ordered_nothing]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_that_law_notices_a_race_in_either_service_that_hears_two_topics(
    plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch.setattr)
    looking = settings(
        AnyHistory.TestCase.settings,
        max_examples=500,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
    )
    with pytest.raises(AssertionError, match="Race"):
        run_state_machine_as_test(AnyHistory, settings=looking)


def test_in_a_played_shop_and_its_recording_no_order_matters(
    played: Shop,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "choreo.operations.reading.replay_source.find_installation", lambda: played.installation
    )
    found = []
    for file in ([], [recording.path]):
        assert invoked("verify", *file, "--shuffle", 20, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    live, recorded = found
    assert (live["races"], live["incomplete"]) == ([], [])
    assert live["counts"]["notification keys"] >= 2 and live["counts"]["notification orders"] >= 2
    assert live | {"seconds": 0} == recorded | {"seconds": 0}


# -- races -------------------------------------------------------------------------------------------


def payments_heard_before_any_mail() -> Constructed:
    """The notification service hears a registration and then three payments: the second is confirmed."""
    shop = Constructed()
    shop.register()
    shop.deliver("billing", "user")
    shop.deposit(10)
    for price in (20, 4, 30):
        shop.place(price)
        shop.publish("order")
        shop.deliver("billing", "order")
    while shop.publish("billing"):
        pass
    shop.deliver("notification", "user")
    while shop.deliver("notification", "billing"):
        shop.seconds += 1
    shop.settle()
    return shop


def orders_heard_before_the_registration() -> Constructed:
    shop = Constructed()
    for price in (3, 4):
        shop.place(price)
        shop.publish("order")
        shop.deliver("billing", "order")
    shop.settle()
    return shop


def told(side: Side) -> tuple[str, str, str]:
    return side.type, side.at, side.handler.partition(":")[0]


@pytest.mark.parametrize("shuffles", [3, 20, 100])
def test_a_race_is_found_and_it_is_the_two_alone_that_are_named(
    monkeypatch: pytest.MonkeyPatch, shuffles: int
) -> None:
    plants.the_last_writer_wins(monkeypatch.setattr)
    (race,) = tally(payments_heard_before_any_mail(), shuffles).races
    here = "tests/replay/plants.py"
    assert told(race.first) == ("UserRegistered", "user-events[0]@0", here)
    assert told(race.second) == ("PaymentConfirmed", "billing-events[0]@3", here)
    (difference,) = race.differences
    assert difference.what == f"recipients {race.key}"
    assert difference.recorded == {"login": "", "email": ""}
    assert difference.exchanged == {"login": "Ada", "email": "ada@example.org"}


def test_a_decision_that_depends_on_the_order_is_a_race_however_far_apart_they_were_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plants.a_gift_for_who_has_ordered_nothing(monkeypatch.setattr)
    (race,) = tally(orders_heard_before_the_registration()).races
    assert (race.first.type, race.first.at) == ("OrderCreated", "order-events[0]@0")
    assert (race.second.type, race.second.at) == ("UserRegistered", "user-events[0]@0")
    decided = {one.what.split()[0]: (one.recorded, one.exchanged) for one in race.differences}
    recorded, exchanged = decided["PaymentConfirmed"]
    assert recorded is None and exchanged["amount"] == 3


def test_a_handler_that_raises_in_another_order_is_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    plants.a_bug_before_the_address_is_known(monkeypatch.setattr)
    (race,) = tally(payments_heard_before_any_mail()).races
    assert (race.first.type, race.second.type) == ("UserRegistered", "PaymentRejected")
    raised = race.differences[0]
    assert (raised.what, raised.recorded) == ("a handler", None)
    assert "at tests/replay/plants.py:" in raised.exchanged


def test_facts_of_one_topic_never_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    plants.the_order_of_one_topic_matters(monkeypatch.setattr)
    found = tally(payments_heard_before_any_mail(), 100)
    assert (found.races, found.counts["notification orders"]) == ([], 3)


def test_in_a_recording_the_race_is_printed_with_the_command_that_shows_more(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plants.the_last_writer_wins(monkeypatch.setattr)
    arguments = ["verify", recording.path, "--shuffle", 20]
    assert invoked(*arguments, "--json") == 1
    races = json.loads(capsys.readouterr().out)["races"]
    assert invoked(*arguments) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    records = {item.at: item for batch in recording.read() for item in batch if isinstance(item, TopicRecord)}
    for race in races:
        sides = race["first"], race["second"]
        assert {side["type"] for side in sides} == {"UserRegistered", "PaymentConfirmed"}
        assert {records[side["at"]].record.key for side in sides} == {race["key"].encode()}
        for name in ("first", "second"):
            side = race[name]
            assert [name, *(side[one] for one in ("type", "id", "at", "time", "handler"))] in lines
        assert ["again", *race["again"].split()] in lines
        assert invoked(*race["again"].split()[1:]) == 0
    assert {race["service"] for race in races} == {"notification"}


# -- how it is looked for ----------------------------------------------------------------------------


def test_the_same_shuffles_find_the_same_however_little_is_in_memory(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.the_last_writer_wins(monkeypatch.setattr)
    found = asyncio.run(tally_of(recording))
    assert len(found.races) >= 2
    monkeypatch.setattr(shuffle, "_AT_ONCE", 1)
    assert asyncio.run(tally_of(recording)) == found


def test_a_recording_that_was_cut_off_is_incomplete(recording: Recording, tmp_path: Path) -> None:
    cut_off = tmp_path / "cut_off.ndjson"
    cut_off.write_bytes(recording.path.read_bytes()[:-200])
    with pytest.raises(Incomplete, match="cut off"):
        invoked("verify", cut_off, "--shuffle", 1)


def test_a_key_that_lacks_a_record_is_left_out_and_it_is_said() -> None:
    class Lossy(Constructed):
        def items(self) -> Iterator[Item]:
            for item in super().items():
                if not (isinstance(item, TopicRecord) and item.at == "billing-events[0]@3"):
                    yield item

    shop = payments_heard_before_any_mail()
    shop.__class__ = Lossy
    found = tally(shop)
    assert found.exit_code == 3 and "billing-events[0]@3, is not there" in found.lacks[0]
    assert found.counts["notification keys"] == 0


@pytest.mark.parametrize(
    "also",
    [["--sample", "0.5"], ["--allow", "changes.toml"], ["--junit", "found.xml"]],
    ids=lambda also: also[0],
)
def test_what_compares_with_the_record_does_not_go_with_it(also: list[str]) -> None:
    with pytest.raises(UsageError, match="--shuffle"):
        invoked("verify", "recording.ndjson", "--shuffle", "3", *also)
