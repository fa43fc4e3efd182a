"""A recording says enough of each step's rows to name the fact whose effect is another one today."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

import billing_service.service
import notification_service.service
import order_service.service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.chassis.registry import services
from choreo.cli.main import app
from choreo.errors import Incomplete
from choreo.message.envelope import Event
from choreo.replay.sources.recording import Recording, _end
from choreo.replay.sources.records import JournalEntry
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.verify import verify
from events.billing import PaymentRefunded
from notification_service.evolve import evolve as evolve_notifications
from order_service.evolve import evolve as evolve_orders
from order_service.state import Orders
from tests.replay import plants
from tests.replay.constructed import Constructed, a_story
from tests.replay.planted_bugs import PLACE, TELL, choreo, planted
from tests.unit.facts import ADA

Evolve = Callable[[Any, Event[Any]], Any]


def the_outcome_is_forgotten(state: Billing, event: Event[Any]) -> Billing:
    after = evolve(state, event)
    return replace(after, payments=state.payments) if isinstance(event.data, PaymentRefunded) else after


def the_balance_is_forgotten(state: Billing, event: Event[Any]) -> Billing:
    after = evolve(state, event)
    return replace(after, account=state.account) if isinstance(event.data, PaymentRefunded) else after


def the_legs_are_forgotten(state: Billing, event: Event[Any]) -> Billing:
    after = evolve(state, event)
    return replace(after, ledger=state.ledger) if isinstance(event.data, PaymentRefunded) else after


def the_outcome_is_another(state: Billing, event: Event[Any]) -> Billing:
    after = evolve(state, event)
    if not isinstance(event.data, PaymentRefunded):
        return after
    payment = replace(after.payments[event.data.order_id], outcome="rejected")
    return replace(after, payments={**after.payments, payment.order_id: payment})


def the_currency_is_lost(state: Billing, event: Event[Any]) -> Billing:
    after = evolve(state, event)
    if not (isinstance(event.data, PaymentRefunded) and after.account):
        return after
    return replace(after, account=replace(after.account, currency="USD"))


@pytest.fixture
def story(tmp_path: Path) -> tuple[Constructed, Path]:
    shop = a_story()
    return shop, shop.recorded(tmp_path / "story.ndjson")


def found_in(file: Path) -> list[Finding]:
    recording = Recording(file)
    known = services(recording.cut.settings)
    return asyncio.run(verify(recording, {name: known[name] for name in recording.cut.services})).findings


@pytest.mark.parametrize(
    ("wrong", "table", "column", "says", "expected", "got"),
    [
        (the_outcome_is_forgotten, "payments", "outcome", "leaves it as it is", "refunded", "confirmed"),
        (the_balance_is_forgotten, "accounts", "balance", "leaves it as it is", 400_00, 300_00),
        (the_legs_are_forgotten, "ledger", "entry_id", "ledger lacks", None, None),
        (the_outcome_is_another, "payments", "outcome", "another outcome after", "refunded", "rejected"),
        (the_currency_is_lost, "accounts", "currency", "left it as it was", None, "USD"),
    ],
)
def test_the_fact_is_named_whose_effect_is_another_one(
    story: tuple[Constructed, Path],
    monkeypatch: pytest.MonkeyPatch,
    wrong: Evolve,
    table: str,
    column: str,
    says: str,
    expected: Any,
    got: Any,
) -> None:
    shop, file = story
    monkeypatch.setattr(billing_service.service, "evolve", wrong)
    (found,) = found_in(file)
    (refund,) = (event for event in shop.topics["billing"] if event.type == "PaymentRefunded")
    assert (found.kind, found.service, found.key, found.table) == ("state", "billing", str(ADA), table)
    assert (found.event, found.type, found.column) == (str(refund.id), "PaymentRefunded", column)
    assert says in found.says and str(refund.id) in found.says
    first, line = wrong.__code__.co_firstlineno, int(found.handler.rpartition(":")[2])
    assert found.handler.startswith("tests/replay/test_row_digests.py:")
    if wrong in (the_outcome_is_another, the_currency_is_lost):
        assert first < line < first + 6, "where the row is made"
    else:
        assert line == first, "the handler's own, as no line makes what is missing"
    if table != "ledger":  # whose ids are too long to be kept
        assert (found.expected or {}).get(column) == expected
        assert (found.got or {}).get(column) == got


def test_of_a_row_another_column_than_a_time_is_told(
    story: tuple[Constructed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(state: Orders, event: Event[Any]) -> Orders:
        return state if isinstance(event.data, PaymentRefunded) else evolve_orders(state, event)

    monkeypatch.setattr(order_service.service, "evolve", wrong)
    (found,) = found_in(story[1])
    assert (found.type, found.table, found.column) == ("PaymentRefunded", "orders", "refunded")
    assert (found.expected, found.got) == ({"refunded": True}, {"refunded": False})


def test_what_was_no_refusal_and_what_raises_is_not_told_as_nothing(
    story: tuple[Constructed, Path], tmp_path: Path
) -> None:
    right, other = (
        "        case Created() | Confirmed():\n            return [OrderC",
        "        case Rejected():\n",
    )
    over = (right.replace("() | Confirmed", ""), other.replace("()", "() | Confirmed()"))
    edits = {
        PLACE: [(right, over[0]), (other, over[1])],
        TELL: [('"order_refunded", texts', '{}["lost"], texts')],
    }
    told = choreo("verify", str(story[1]), tree=planted(tmp_path, edits)).stdout
    assert re.search("recorded +no refusal\n +replayed +AlreadyOver status rejected\n", told), told
    assert re.search("raises KeyError: 'lost'(\n  (handler|at|key) .*)+\n  replayed ", told), told


def test_a_decision_that_differs_is_told_and_not_the_rows_that_follow_from_it(
    story: tuple[Constructed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.amount_off_by_one(monkeypatch.setattr)
    assert [(one.kind, one.type) for one in found_in(story[1])] == [("step", "Deposit")]


def test_rows_of_a_heard_fact_are_named_with_where_it_lies(
    story: tuple[Constructed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, file = story
    plants.changed_text(monkeypatch.setattr)
    (found,) = found_in(file)
    (paid,) = (event for event in shop.topics["billing"] if event.type == "PaymentConfirmed")
    assert (found.event, found.table, found.column) == (str(paid.id), "notifications", "text")
    assert found.at == f"billing-events[0]@{shop.topics['billing'].index(paid)}"
    assert str((found.expected or {})["text"]).startswith("#"), "a mail is too long to be kept"


def test_what_was_recorded_before_there_were_digests_says_what_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_story().recorded(tmp_path / "old.ndjson", digests=False)
    assert found_in(file) == []
    monkeypatch.setattr(billing_service.service, "evolve", the_outcome_is_forgotten)
    (found,) = found_in(file)
    assert (found.table, found.event) == ("payments", "")
    assert "which row, column and event cannot be told" in found.says
    with pytest.raises(Incomplete, match="cannot be told"):
        app(["minimize", str(file)], standalone_mode=False)


def test_a_row_that_was_edited_is_named_from_a_file(tmp_path: Path) -> None:
    shop = a_story()
    here = shop.journaling["billing"]
    here.state = replace(here.state, account=replace(here.state.account, balance=1))
    (found,) = found_in(shop.recorded(tmp_path / "edited.ndjson"))
    assert (found.table, found.column, found.expected) == ("accounts", "balance", {"balance": 1})
    assert (found.got, found.type) == ({"balance": 399_99}, "MoneyWithdrawn")


@pytest.mark.parametrize(
    ("service", "right", "wrong", "inputs"),
    [
        (
            billing_service.service,
            evolve,
            the_outcome_is_forgotten,
            ["UserRegistered", "Deposit", "OrderCreated", "OrderCancelled"],
        ),
        (notification_service.service, evolve_notifications, None, ["UserRegistered", "PaymentConfirmed"]),
    ],
)
def test_a_row_is_minimized_to_the_inputs_that_it_takes(
    story: tuple[Constructed, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    service: Any,
    right: Evolve,
    wrong: Evolve | None,
    inputs: list[str],
) -> None:
    if wrong:
        monkeypatch.setattr(service, "evolve", wrong)
    else:
        plants.changed_text(monkeypatch.setattr)
    small = tmp_path / "small.ndjson"
    assert app(["minimize", str(story[1]), "-o", str(small)], standalone_mode=False) == 1
    entries = [item for batch in Recording(small).read() for item in batch if isinstance(item, JournalEntry)]
    assert [entry.type for entry in entries] == inputs
    (left,) = found_in(small)
    assert left.kind == "state"
    monkeypatch.undo()
    assert found_in(small) == []


@pytest.mark.parametrize(
    "wrote", [{"rows": "0", "writes": [[9, "accounts", "x", {}]]}, {"rows": "0", "writes": [7]}, {}]
)
def test_digests_that_nobody_recorded_are_incomplete(story: tuple[Constructed, Path], wrote: Any) -> None:
    manifest, *lines, _ = story[1].read_bytes().splitlines(keepends=True)
    told = [orjson.loads(line) for line in lines]
    first = next(one for one in told if one.get("journal") == "billing")
    facts = first["wrote"]["facts"]
    first["wrote"] = wrote | {"facts": facts} if wrote else 7
    body = [orjson.dumps(one) + b"\n" for one in told]
    end = _end(len(body), manifest, hashlib.sha256(b"".join(body)))
    story[1].write_bytes(b"".join([manifest, *body, end]))
    assert {one.kind for one in found_in(story[1])} == {"incomplete"}


@pytest.mark.parametrize("wrong", [the_outcome_is_forgotten, the_balance_is_forgotten])
def test_of_a_running_system_the_fact_is_named_that_has_the_missing_value(
    monkeypatch: pytest.MonkeyPatch, wrong: Evolve
) -> None:
    shop = Constructed()
    for wish in (shop.register, lambda: shop.deposit(400), lambda: shop.place(100), lambda: shop.cancel(0)):
        wish()
        shop.settle()
    monkeypatch.setattr(billing_service.service, "evolve", wrong)
    found = asyncio.run(verify(shop, {"billing": services(shop.cut.settings)["billing"]})).findings
    assert [(one.kind, one.type) for one in found] == [("state", "PaymentRefunded")]
