"""What verify is asked for, what it names, and what it says of what it cannot know."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest

import billing_service.evolve
from billing_service.state import Billing
from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.message.codec import Record, TopicRecord
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Cut, Item, JournalEntry, OutboxRecord, Span
from choreo.replay.verify.verify import verify
from events.billing import PaymentRefunded
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed, a_story
from tests.services import SERVICES

ROOT = Path(__file__).parents[2]
Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_story().recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson")


def verified(capsys: Out, *arguments: str | Path) -> tuple[int, Any]:
    code = app(["verify", *map(str, arguments), "--json"], standalone_mode=False)
    return int(code or 0), json.loads(capsys.readouterr().out)


def test_a_recording_is_verified_by_the_services_it_has(file: Path, capsys: Out) -> None:
    code, told = verified(capsys, file)
    missing = [name for name in SERVICES if name not in NAMES]
    assert (code, told["verdict"], list(told["not_verified"])) == (0, "match", missing)
    app(["verify", str(file)], standalone_mode=False)
    assert "  the journal of user is not recorded\n" in capsys.readouterr().out


def test_a_recording_older_than_a_service_or_newer_than_the_code_says_what_it_does_not_verify(
    file: Path, tmp_path: Path, capsys: Out
) -> None:
    whole = Recording(file)
    items = [item for batch in whole.read() for item in batch]
    entry = next(item for item in items if isinstance(item, JournalEntry) and item.kind == "command")
    record = next(item for item in items if isinstance(item, TopicRecord))
    loyalty: list[Item] = [
        changed(record, topic="loyalty-events", partition=0, offset=0, fetched_from=-1),
        changed(entry, service="loyalty", type="GivePoints"),
        OutboxRecord("loyalty", record.record),
    ]
    newer = changed(
        whole.cut,
        services=(*whole.cut.services, "loyalty"),
        spans=whole.cut.spans | {("loyalty-events", 0): Span(0, 1, 1)},
    )
    code, told = verified(capsys, written(tmp_path / "newer.ndjson", newer, [*items, *loyalty]))
    assert (code, told["verdict"]) == (0, "match")
    assert told["not_verified"]["loyalty"] == "loyalty is in this recording, and unknown to this code"

    older = changed(
        whole.cut,
        services=tuple(name for name in whole.cut.services if name != "notification"),
        spans={place: span for place, span in whole.cut.spans.items() if place[0] != "notification-events"},
    )
    left = [
        item
        for item in items
        if (
            item.topic != "notification-events"
            if isinstance(item, TopicRecord)
            else item.service != "notification"
        )
    ]
    small = written(tmp_path / "older.ndjson", older, left)
    code, told = verified(capsys, small)
    assert (code, told["verdict"]) == (0, "match")
    assert told["not_verified"]["notification"] == "notification is younger than this recording"
    code, told = verified(capsys, small, "--service", "notification")
    assert (code, told["findings"][0]["says"]) == (3, "notification is younger than this recording")


def written(path: Path, cut: Cut, items: list[Item]) -> Path:
    with Writer(path, cut, None) as writer:
        writer.write(items)
        writer.finish()
    return path


def test_only_what_is_about_a_key_or_a_time_is_told(
    file: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.amount_off_by_one(monkeypatch.setattr)
    # Only this process has the plant: what the other does not find as well is not deterministic.
    code, told = verified(capsys, file)
    (found,) = told["not_deterministic"]
    assert (code, found["type"]) == (2, "Deposit")
    assert verified(capsys, file, "--key", found["key"], "--since", found["time"])[0] == 2
    with pytest.raises(UsageError, match="Nothing has the id somebody else"):
        verified(capsys, file, "--key", "somebody else")
    assert verified(capsys, file, "--since", "2035-01-01T00:00:00Z")[0] == 0
    with pytest.raises(UsageError, match="--since takes a time"):
        verified(capsys, file, "--since", "billing-events[0]@1")


def test_an_event_of_a_version_nobody_can_lift_is_incomplete(file: Path, tmp_path: Path, capsys: Out) -> None:
    whole = Recording(file)

    def newer(item: Any) -> Any:
        if not isinstance(item, TopicRecord) or ("ce_type", b"MoneyDeposited") not in item.record.headers:
            return item
        told = [
            (name, b"urn:choreo:MoneyDeposited:9" if name == "ce_dataschema" else value)
            for name, value in item.record.headers
        ]
        return changed(item, record=Record(item.record.key, item.record.value, told))

    with Writer(tmp_path / "newer.ndjson", whole.cut, None) as writer:
        writer.write([newer(item) for batch in whole.read() for item in batch])
        writer.finish()
    code, told = verified(capsys, tmp_path / "newer.ndjson")
    assert (code, {finding["kind"] for finding in told["findings"]}) == (3, {"incomplete"})
    assert "MoneyDeposited is of version 9, and this program knows up to 1" in told["findings"][0]["says"]


async def test_a_fact_that_forgets_its_row_is_named_and_not_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop: Constructed = a_story()
    kept = billing_service.evolve._with_payment

    def forgetful(state: Billing, payment: Any) -> Billing:
        return state if payment.outcome == "refunded" else kept(state, payment)

    monkeypatch.setattr(billing_service.evolve, "_with_payment", forgetful)
    tally = await verify(shop, {"billing": shop.described("billing")})
    (found,) = tally.findings
    assert (found.table, found.column, found.expected) == ("payments", "outcome", {"outcome": "refunded"})
    refund = next(event for event in shop.topics["billing"] if isinstance(event.data, PaymentRefunded))
    assert (found.type, found.event) == ("PaymentRefunded", str(refund.id))
    assert re.search(
        rf"last written by PaymentConfirmed .*; PaymentRefunded {refund.id} is about it", found.says
    )
    file, line = found.handler.split(":")
    assert "case PaymentRefunded(" in (ROOT / file).read_text().splitlines()[int(line) - 1]


async def test_a_wrong_value_is_the_fact_s_that_wrote_it_whoever_is_about_the_row_later() -> None:
    shop: Constructed = a_story()
    here = shop.journaling["notification"]
    (first, *_) = here.state.notifications.values()
    wrong = changed(first, text="edited by hand")
    here.state = changed(here.state, notifications={**here.state.notifications, first.id: wrong})
    tally = await verify(shop, {"notification": shop.described("notification")})
    (found,) = tally.findings
    assert (found.column, found.type, found.event) == ("text", "PaymentConfirmed", str(first.event_id))


def test_a_pipe_that_ends_ends_nothing(file: Path) -> None:
    command = f"'{sys.executable}' -m choreo.cli.main verify '{file}' --json | true; exit ${{PIPESTATUS[0]}}"
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, env=here, capture_output=True, text=True)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize("text", ["billing-events[0]@1", " billing-events[0]@1 "])
def test_a_place_in_a_topic_is_an_id_to_trace(text: str, file: Path, capsys: Out) -> None:
    shop = a_story()
    assert not app(["trace", text, str(file), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert str(shop.topics["billing"][1].correlation_id) in {flow["flow"] for flow in told["flows"]}
    assert app(["trace", "billing-events[0]@999", str(file)], standalone_mode=False) == 1
