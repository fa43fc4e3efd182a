"""What should be is asked of what was recorded, and becomes a test that the mended code passes."""

import json
import os
import re
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from choreo.cli.debugging.expected import _Told
from choreo.cli.main import app
from choreo.errors import HandlerMisbehaves, Incomplete, UsageError
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import JournalEntry
from choreo.replay.verify.forgetting import forgetting
from tests import words
from tests.replay import plants
from tests.replay.constructed import Constructed
from tests.replay.many_keys import life_of, recording_of
from tests.replay.test_recorded_history import no_refunds, rounded_refunds
from tests.words import (
    billing,
    cancel,
    confirmed,
    deposit,
    order,
    orders,
    place,
    refunded,
    rejected,
    unregistered,
)

PAID_BACK = "PaymentRefunded: amount == state.payments[order_id].amount"
ANSWERED = "OrderCancelled: decided and decided[0].type == 'PaymentRefunded'"
Out = pytest.CaptureFixture[str]
Bug = Callable[[pytest.MonkeyPatch], None]


def lived(bug: Bug | None, path: Path) -> str:
    """A shop that had the bug while all of this was decided."""
    with pytest.MonkeyPatch.context() as then:
        if bug:
            bug(then)
        shop = Constructed()
        wishes: Sequence[Callable[[], None]] = (
            shop.register,
            lambda: shop.deposit(113_11),
            lambda: shop.place(5_00),
            lambda: shop.place(8_16),
            lambda: shop.cancel(1),
            lambda: shop.deposit(5),
        )
        for wish in wishes:
            shop.seconds += 1
            wish()
            shop.settle()
        return str(shop.recorded(path / "lived.ndjson"))


def choreo(*arguments: str | Path) -> int:
    return int(app([*map(str, arguments)], standalone_mode=False))


def run_tests(written: Path) -> dict[str, bool]:
    """Runs the tests of a file here; tells which pass."""
    passed = {}
    for name, test in runpy.run_path(str(written)).items():
        if name.startswith("test_"):
            try:
                test()
                passed[name] = True
            except AssertionError:
                passed[name] = False
    return passed


def test_a_bug_as_old_as_its_history_becomes_a_test_that_says_what_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    file, written = lived(rounded_refunds, tmp_path), tmp_path / "test_refund.py"
    with monkeypatch.context() as still:
        rounded_refunds(still)
        assert choreo("minimize", file, "--expect", PAID_BACK, "--pytest", written) == 1
        assert set(run_tests(written).values()) == {False}
    told = capsys.readouterr().out
    assert "billing.given(deposit(11311), order(816), cancel()).then(refunded(816))" in told
    assert 'expected  {"amount": 816}' in told and 'decided   {"amount": 820}' in told
    assert re.search(r"handler   billing_service/decide.py:\d+ → .*billing_service/decide.py:\d+\n", told)
    assert "asserts what *should be*" in written.read_text()
    small = Recording(written.with_suffix(".ndjson"))
    entries = [item for batch in small.read() for item in batch if isinstance(item, JournalEntry)]
    assert [entry.type for entry in entries] == [
        "UserRegistered",
        "Deposit",
        "OrderCreated",
        "OrderCancelled",
    ]
    assert run_tests(written) == {
        "test_billing_payment_refunded_is_as_expected": True,
        "test_billing_payment_refunded_in_words": True,
    }


def test_of_a_bug_that_is_mended_the_recorded_fact_is_found_and_the_test_passes(
    tmp_path: Path, capsys: Out
) -> None:
    written = tmp_path / "test_refund.py"
    file = lived(rounded_refunds, tmp_path)
    assert choreo("minimize", file, "--expect", PAID_BACK, "--pytest", written) == 1
    assert "That was recorded, and today's code does not show it." in capsys.readouterr().out
    assert set(run_tests(written).values()) == {True}
    rounded_refunds(again := pytest.MonkeyPatch())
    assert set(run_tests(written).values()) == {False}
    again.undo()


def test_what_is_not_decided_at_all_is_expected_of_the_input(tmp_path: Path, capsys: Out) -> None:
    written = tmp_path / "test_refund.py"
    with pytest.MonkeyPatch.context() as still:
        no_refunds(still)
        file = lived(None, tmp_path)
        options = ("--expect", ANSWERED, "--service", "billing", "--pytest", written, "--json")
        assert choreo("minimize", file, *options) == 1
        assert run_tests(written) == {"test_billing_order_cancelled_is_as_expected": False}
    told = json.loads(capsys.readouterr().out)
    assert (told["expected"], told["violated_today"], told["words"]) == (ANSWERED, True, None)
    taken = ["UserRegistered", "Deposit", "OrderCreated", "OrderCreated", "OrderCancelled"]
    assert [one["type"] for one in told["inputs"]] == taken, "the state that the right code needs"
    assert set(run_tests(written).values()) == {True}


def test_what_is_as_expected_is_left_alone(tmp_path: Path, capsys: Out) -> None:
    file = lived(None, tmp_path)
    assert choreo("minimize", file, "--expect", PAID_BACK, "--pytest", tmp_path / "test_it.py") == 0
    assert "is as expected" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["lived.ndjson"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("amount > 0", "--expect takes TYPE: EXPRESSION"),
        ("PaymentRefunded: amount >", "no Python expression"),
        ("Parcel: weight > 0", "Nobody decides or is asked Parcel"),
        ("PaymentRefunded: amont > 0", "NameError: name 'amont' is not defined"),
        ("Withdraw: amount > 0", "billing has none in"),
    ],
)
def test_an_expectation_that_cannot_be_asked_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choreo("minimize", lived(None, tmp_path), "--expect", text)


# -- words -------------------------------------------------------------------------------------------


def test_words_are_what_a_service_hears_is_asked_and_decides() -> None:
    billing.given(deposit(5_00), order(5_00)).then(confirmed(5_00, balance=0))
    billing.given(deposit(5_00), order(5_00), order(1)).then(rejected(1))
    billing.given(deposit(9_00), order(5_00), order(1_00), cancel(1)).then(refunded(5_00, 1))
    billing.given(unregistered(), order(5_00), cancel()).then(rejected(5_00, reason="order_cancelled"))
    orders.given(place(5_00)).then(order(5_00))
    for wrong in (confirmed(4_00), confirmed(5_00, balance=1), rejected(5_00)):
        with pytest.raises(AssertionError):
            billing.given(deposit(5_00), order(5_00)).then(wrong)


def test_an_order_that_is_not_the_latest_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _Told(words.WORDS, words.BEGINS_WITH)
    one, other = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
    steps: Sequence[tuple[str, dict[str, Any]]] = (
        ("OrderCreated", {"order_id": one, "price": 5}),
        ("OrderCreated", {"order_id": other, "price": 6}),
        ("OrderCancelled", {"order_id": one}),
        ("OrderCancelled", {"order_id": other}),
        ("Parcel", {}),
    )
    for type_, fields in steps[:4]:
        told.given(type_, fields)
    assert told._steps == ["order(5)", "order(6)", "cancel(1)", "cancel()"]
    told.given(*steps[4])
    assert told._unknown == ["Parcel"]


def test_a_fact_that_today_is_not_decided_at_all_keeps_the_state_that_it_was_decided_on(
    tmp_path: Path, capsys: Out
) -> None:
    file = lived(rounded_refunds, tmp_path)
    with pytest.MonkeyPatch.context() as now:
        no_refunds(now)
        assert choreo("minimize", file, "--expect", PAID_BACK, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["violated_today"] and len(told["inputs"]) == 5


def test_what_a_module_remembers_is_forgotten_before_each_try(tmp_path: Path, capsys: Out) -> None:
    """Else a part would do that shows the bug for what was tried before it."""
    shop = Constructed()
    shop.register()
    for amount in (7, 5, 9, 5):
        shop.settle()
        shop.seconds += 1
        shop.deposit(amount)
    shop.settle()
    file, written = shop.recorded(tmp_path / "deposits.ndjson"), tmp_path / "test_deposits.py"
    added = "MoneyDeposited: balance == state.account.balance + amount"
    with pytest.MonkeyPatch.context() as still:
        still.setattr(plants, "_AMOUNTS", {})
        plants.what_a_module_remembers(still.setattr)
        assert choreo("minimize", file, "--expect", added, "--pytest", written) == 1
        assert set(run_tests(written).values()) == {False}
    line = "billing.given(deposit(5), deposit(5)).then(deposited(5, balance=10))"
    assert line in capsys.readouterr().out
    assert set(run_tests(written).values()) == {True}


def test_what_a_module_remembers_of_another_key_is_found_with_that_key(tmp_path: Path, capsys: Out) -> None:
    def one(shop: Constructed) -> None:
        shop.deposit(5)
        shop.settle()
        shop.deposit(7)

    lives = [life_of(1, one), life_of(2, lambda shop: shop.deposit(7), 100), life_of(3, one, 200)]
    file, written = recording_of(lives, tmp_path / "lives.ndjson"), tmp_path / "test_deposits.py"
    added = "MoneyDeposited: balance == (state.account.balance if state.account else 0) + amount"
    with pytest.MonkeyPatch.context() as still:
        still.setattr(plants, "_AMOUNTS", {})
        plants.what_a_module_remembers(still.setattr)
        assert choreo("minimize", file, "--expect", added, "--pytest", written, "--json") == 1
        assert set(run_tests(written).values()) == {False}
    told = json.loads(capsys.readouterr().out)
    assert told["not_in_words"] == "the inputs are of several keys"
    types = Counter(one["type"] for one in told["inputs"])
    assert types == {"UserRegistered": 2, "Deposit": 3}, "of the key that came between nothing is left"
    assert set(run_tests(written).values()) == {True}


def test_of_what_is_parked_it_is_said_that_nothing_is_expected(tmp_path: Path, capsys: Out) -> None:
    shop = Constructed()
    shop.register()
    shop.settle()
    for price in (5_00, 6_00):
        shop.place(price)
        shop.settle()
    journal = shop.journaling["billing"].journal
    journal[-1] = replace(journal[-1], outcome="parked", step=journal[-1].step - 1)
    file = shop.recorded(tmp_path / "parked.ndjson")
    assert choreo("minimize", file, "--expect", "OrderCreated: decided", "--service", "billing") == 0
    said = "Not looked at: 1 OrderCreated parked in billing, of which it decided nothing."
    assert said in capsys.readouterr().out
    journal[-2:] = [replace(entry, outcome="parked", step=2) for entry in journal[-2:]]
    with pytest.raises(Incomplete, match="Not looked at: 2 OrderCreated parked"):
        choreo("minimize", shop.recorded(file), "--expect", "OrderCreated: decided", "--service", "billing")


def test_whoever_ends_the_fork_is_a_sentence_and_what_it_raises_arrives() -> None:
    async def leave() -> None:
        os._exit(1)

    async def lack() -> None:
        raise Incomplete("nothing is there")

    with pytest.raises(HandlerMisbehaves, match="A handler ended the process"):
        forgetting(lambda tell: leave())
    with pytest.raises(Incomplete, match="nothing is there"):
        forgetting(lambda tell: lack())
