"""State, blame and replay tell what was recorded, whatever today's code would decide."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import billing_service.decide
from choreo.chassis.code_version import code_version
from choreo.cli.main import app
from choreo.errors import Incomplete
from choreo.message.codec import TopicRecord
from choreo.replay.engine.walk import Walk
from choreo.replay.history.moments import End
from choreo.replay.history.state import tables_at
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.rows import plain
from tests.replay.constructed import NAMES, Constructed, a_story, rows_of
from tests.unit.facts import ADA

END = "2040-01-01T00:00:00Z"
Out = pytest.CaptureFixture[str]


def rounded_refunds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody rounds what goes back to whole tens."""
    right = billing_service.decide._undo_payment

    def wrong(command: Any, state: Any) -> Any:
        payment = state.payments[command.order_id]
        rounded = replace(payment, amount=round(payment.amount, -1))
        return right(command, replace(state, payments={**state.payments, payment.order_id: rounded}))

    monkeypatch.setattr(billing_service.decide, "_undo_payment", wrong)


def no_refunds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes back."""
    monkeypatch.setattr(billing_service.decide, "_undo_payment", lambda command, state: [])


@dataclass(frozen=True)
class Lived:
    """A shop whose billing had a bug while this was decided. Today it has none."""

    shop: Constructed
    file: str

    @property
    def account(self) -> Any:
        return self.shop.journaling["billing"].state.account

    def published(self, type_: str) -> Any:
        return next(event for event in self.shop.topics["billing"] if event.type == type_)


@pytest.fixture(params=[rounded_refunds, no_refunds])
def lived(request: pytest.FixtureRequest, tmp_path: Path) -> Lived:
    with pytest.MonkeyPatch.context() as then:
        request.param(then)
        shop = Constructed()
        shop.register()
        wishes: list[Callable[[], None]] = [
            lambda: shop.deposit(40_000),
            lambda: shop.place(816),
            lambda: shop.cancel(0),
        ]
        for wish in wishes:
            shop.settle()
            shop.seconds += 1
            wish()
        shop.settle()
        shop.deposit(5)
        shop.settle()
    return Lived(shop, str(shop.recorded(tmp_path / "lived.ndjson")))


def choreo(capsys: Out, *arguments: str) -> str:
    app([*arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_the_rows_are_what_they_were_and_where_today_differs_is_said(lived: Lived, capsys: Out) -> None:
    told = json.loads(choreo(capsys, "state", "billing", lived.file, "--at", END, "--json"))
    for table, rows in rows_of(
        lived.shop.described("billing"), lived.shop.journaling["billing"].state
    ).items():
        assert sorted(json.dumps(list(one["row"].values())) for one in told["tables"][table]) == sorted(
            json.dumps([plain(value) for value in row]) for row in rows.values()
        )
    (differs,) = told["differs"]
    assert differs["type"] == "OrderCancelled" and differs["handler"].startswith("billing_service/decide.py:")
    text = choreo(capsys, "state", "billing", lived.file, "--at", END)
    assert f"! today's code differs from OrderCancelled {differs['id']} on: " in text


def test_a_value_is_blamed_on_an_event_that_was_published(lived: Lived, capsys: Out) -> None:
    told = json.loads(
        choreo(capsys, "blame", "billing", "accounts", str(ADA), "balance", lived.file, "--json")
    )
    balance = told["columns"]["balance"]
    assert balance["new"] == lived.account.balance
    assert balance["cause"]["fact_id"] in {str(event.id) for event in lived.shop.topics["billing"]}
    assert [one["type"] for one in told["differs"]] == ["OrderCancelled"]


def test_a_replay_shows_the_recorded_decisions(lived: Lived, capsys: Out) -> None:
    out = choreo(capsys, "replay", lived.file, "--service", "billing", "--json")
    *steps, end = map(json.loads, out.splitlines())
    decided = [event["id"] for step in steps for event in step["decided"]]
    assert decided == [str(event.id) for event in lived.shop.journaling["billing"].decided]
    assert [step["type"] for step in steps if step["differs"]] == ["OrderCancelled"]
    assert end["differ"] == 1


def test_today_tells_what_today_would_decide(tmp_path: Path, capsys: Out) -> None:
    with pytest.MonkeyPatch.context() as then:
        rounded_refunds(then)
        shop = Constructed()
        shop.register()
        shop.settle()
        shop.deposit(40_000)
        shop.place(816)
        shop.settle()
        shop.cancel(0)
        shop.settle()
    file = str(shop.recorded(tmp_path / "lived.ndjson"))
    for option, balance in (([], 40_004), (["--today"], 40_000)):
        told = json.loads(choreo(capsys, "state", "billing", file, "--at", END, "--json", *option))
        assert told["tables"]["accounts"][0]["row"]["balance"] == balance
        (differs,) = told["differs"]
        assert differs["recorded"] == "PaymentRefunded amount 820, balance 40004"
        assert differs["today"] == "amount 816, balance 40000"


def test_after_and_decided_are_known_beside_the_state(tmp_path: Path, capsys: Out) -> None:
    file = str(a_story().recorded(tmp_path / "story.ndjson"))
    found = "type == 'OrderCreated' and after.account.balance < state.account.balance"
    told = json.loads(choreo(capsys, "replay", file, "--service", "billing", "--break", found, "--json"))
    assert [event["type"] for event in told["decided"]] == ["PaymentConfirmed"]
    out = choreo(capsys, "replay", file, "--service", "billing", "--log", "decided[0].type", "--json")
    assert "PaymentRefunded" in [json.loads(line).get("value") for line in out.splitlines()]


def test_of_unchanged_code_nothing_differs() -> None:
    shop = a_story()
    for name in NAMES:
        walk = Walk(shop, shop.described(name))
        asyncio.run(tables_at(walk, End()))
        assert (walk.differs, walk.lacks) == ([], [])


def test_a_decision_that_is_on_no_topic_is_missing(tmp_path: Path, capsys: Out) -> None:
    shop = a_story()
    whole = Recording(shop.recorded(tmp_path / "whole.ndjson"))
    items = [item for batch in whole.read() for item in batch]
    first = next(one for one in items if isinstance(one, TopicRecord) and one.topic == "billing-events")
    with Writer(tmp_path / "less.ndjson", whole.cut, None) as writer:
        writer.write([item for item in items if item is not first])
        writer.finish()
    with pytest.raises(Incomplete, match="which followed from it, is on no topic"):
        choreo(capsys, "state", "billing", str(tmp_path / "less.ndjson"), "--at", END)


@pytest.mark.parametrize("packed", [False, True])
def test_the_code_that_decides_is_named_by_its_commit(tmp_path: Path, packed: bool) -> None:
    commit, git = "87f3a4f1ba62f40bceb1971f6518309e3c252c3c", tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    if packed:
        (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{commit} refs/heads/main\n")
    else:
        (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
    assert code_version(tmp_path / "shop" / "module.py").endswith("+87f3a4f1ba62")
    (git / "HEAD").write_text(f"{commit}\n")
    assert code_version(tmp_path / "module.py").endswith("+87f3a4f1ba62")


def test_a_history_has_each_change_with_its_event_and_line(tmp_path: Path, capsys: Out) -> None:
    shop = a_story()
    file = str(shop.recorded(tmp_path / "story.ndjson"))
    row = ("blame", "billing", "accounts", str(ADA), "balance", file, "--history")
    told = json.loads(choreo(capsys, *row, "--json"))
    moved = "MoneyDeposited", "MoneyWithdrawn", "PaymentConfirmed", "PaymentRefunded"
    paid = [event for event in shop.journaling["billing"].decided if event.type in moved]
    assert [one["new"] for one in told["history"]] == [0, 40_000, 30_000, 40_000, 39_999]
    assert [one["fact_id"] for one in told["history"][1:]] == [str(event.id) for event in paid]
    assert all(one["decided"].startswith("billing_service/decide.py:") for one in told["history"])
    text = choreo(capsys, *row).splitlines()
    assert len([line for line in text if "balance 0 → 40000" in line and "decide.py:" in line]) == 1
    assert len(text) == 1 + len(told["history"]) or text[-1].startswith("decided by 0;")


def test_a_key_has_a_history_of_all_its_rows_up_to_a_moment(tmp_path: Path, capsys: Out) -> None:
    shop = a_story()
    file = str(shop.recorded(tmp_path / "story.ndjson"))
    refund = next(event for event in shop.topics["billing"] if event.type == "PaymentRefunded")
    of_key = ("state", "billing", file, "--key", str(ADA), "--history", "--at", str(refund.id))
    told = json.loads(choreo(capsys, *of_key, "--json"))["history"]
    balances = [one for one in told if one["table"] == "accounts" and one["change"] == "changed"]
    assert [one["columns"]["balance"]["new"] for one in balances] == [40_000, 30_000, 40_000]
    assert balances[-1]["data"]["amount"] == 10_000
    assert balances[-1]["line"].startswith("billing_service/decide.py:")
    assert [one["time"] for one in told] == sorted(one["time"] for one in told)
    *lines, version = choreo(capsys, *of_key).splitlines()[1:]
    assert len(lines) == len(told) and version.startswith("decided by")
    assert any(
        re.search(
            rf"^{plain(refund.time)}  PaymentRefunded {str(refund.id)[:8]} \(amount 10000, .*\)  ~ payments "
            r".*  outcome confirmed → refunded  billing_service/decide.py:\d+$",
            line,
        )
        for line in lines
    )
    of_table = json.loads(choreo(capsys, *of_key, "--table", "payments", "--json"))["history"]
    assert of_table == [one for one in told if one["table"] == "payments"]


def test_blame_names_the_line_that_decided_beside_the_line_that_wrote(tmp_path: Path, capsys: Out) -> None:
    file = str(a_story().recorded(tmp_path / "story.ndjson"))
    text = choreo(capsys, "blame", "billing", "accounts", str(ADA), "balance", file)
    assert re.search(r"billing_service/decide\.py:\d+ → billing_service/evolve\.py:\d+", text)
