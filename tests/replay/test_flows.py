"""`choreo flows` and `choreo log` on recordings: what is listed, how it is found, what was done with it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.message.codec import Record, TopicRecord
from choreo.message.envelope import Event, derived_id
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Item, JournalEntry, Span
from tests.replay.constructed import Constructed, a_story
from tests.services import TOPICS
from tests.unit.facts import ADA

PAID = ["PaymentConfirmed", "PaymentRejected"]


@pytest.fixture(scope="module")
def shop() -> Constructed:
    return a_story()


@pytest.fixture(scope="module")
def file(shop: Constructed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson")


def asked(*arguments: object) -> tuple[int, Any]:
    """Exit code, and what `--json` prints."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if isinstance(result.exception, UsageError):
        return UsageError.exit_code, str(result.exception)
    return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr


def flows(file: Path, *arguments: object) -> list[Any]:
    code, told = asked("flows", file, *arguments)
    assert code == (0 if told["flows"] else 1)
    found: list[Any] = told["flows"]
    return found


def requests(found: Sequence[Any]) -> list[str]:
    return [flow["asked"]["type"] for flow in found]


def edited(file: Path, path: Path, edit: Any) -> Path:
    """A recording with other items."""
    recording = Recording(file)
    items = [item for batch in recording.read() for item in batch]
    cut = recording.cut
    with Writer(path, replace(cut, spans=dict(cut.spans)), None) as writer:
        writer.write(list(filter(None, map(edit, items))))
        writer.finish()
    return path


def the(shop: Constructed, type: str) -> Event[Any]:
    return next(event for events in shop.topics.values() for event in events if event.type == type)


# -- flows -------------------------------------------------------------------------------------------


def test_flows_are_listed_newest_first_with_what_came_of_each(file: Path) -> None:
    found = flows(file)
    assert requests(found) == ["Withdraw", "CancelOrder", "Withdraw", "PlaceOrder", "PlaceOrder", "Deposit"]
    began = [flow["began_at"] for flow in found]
    assert began == sorted(began, reverse=True)
    refused = found[2]
    assert (refused["state"], refused["events"]) == ("refused", [])
    assert refused["asked"]["refusal"]["type"] == "InsufficientFunds"
    too_dear = found[3]
    assert [event["type"] for event in too_dear["events"]][:2] == ["OrderCreated", "PaymentRejected"]
    assert too_dear["events"][1]["data"]["reason"] == "insufficient_funds"


def test_flows_are_found_by_what_came_out_by_amount_by_time_by_id_and_by_login(
    shop: Constructed, file: Path
) -> None:
    (too_dear,) = flows(file, "--outcome", "rejected")
    for wanted in (["--amount", "500.00"], ["--outcome", "Insufficient_Funds"], ["--amount", "500"]):
        assert too_dear in flows(file, *wanted), wanted
    assert requests(flows(file, "--state", "refused")) == ["Withdraw"]
    assert flows(file, "--amount", "123.45") == []
    whole = flows(file)
    moment = too_dear["began_at"]
    later, earlier = flows(file, "--since", moment), flows(file, "--until", moment)
    assert (later + earlier, later[-1]) == (whole, too_dear)
    order = the(shop, "PaymentConfirmed").data.order_id
    assert requests(flows(file, "--of", order)) == ["CancelOrder", "PlaceOrder"]
    assert requests(flows(file, "--of", order, "--outcome", "refunded")) == ["CancelOrder"]
    assert requests(flows(file, "--of", str(ADA)[:8], "--state", "refused")) == ["Withdraw"]
    slow = [flow for flow in whole if flow["took_ms"] > 1]
    assert flows(file, "--slower", "1") == slow


def test_a_long_list_goes_on_where_it_was_left(file: Path) -> None:
    whole, page, until = flows(file), [], "2040-01-01T00:00:00Z"
    while until:
        _, told = asked("flows", file, "--limit", 2, "--until", until)
        assert len(told["flows"]) <= 2
        page += told["flows"]
        until = told["next_until"]
    assert page == whole


def test_a_flow_stands_as_what_is_not_there(file: Path, tmp_path: Path) -> None:
    """Billing never decided about an order: because it has not read it, or because it failed on it."""
    unread = edited(
        file, tmp_path / "unread.ndjson", lambda item: None if _is_later(item, "billing", 4) else item
    )
    states = {flow["asked"]["type"]: flow["state"] for flow in flows(unread, "--amount", "500.00")}
    assert "finished" not in states.values() and states

    def parked(item: Item) -> Item | None:
        if isinstance(item, JournalEntry) and (item.service, item.type) == ("billing", "OrderCreated"):
            return replace(item, outcome="parked")
        return None if isinstance(item, TopicRecord) and item.topic == TOPICS["billing"] else item

    broken = edited(file, tmp_path / "parked.ndjson", parked)
    missing = flows(broken, "--state", "missing")
    assert "PlaceOrder" in requests(missing)
    gap = next(gap for flow in missing for gap in flow["missing"] if gap["state"] == "parked")
    assert (gap["service"], gap["expects"]) == ("billing", PAID)


def _is_later(item: Item, service: str, position: int) -> bool:
    """Whether the service had not got so far."""
    return (isinstance(item, JournalEntry) and item.service == service and item.position >= position) or (
        isinstance(item, TopicRecord) and item.topic == TOPICS[service] and item.offset >= position - 1
    )


def test_wrong_words_are_a_sentence(file: Path) -> None:
    for arguments in (["--amount", "ten"], ["--amount", "1.234"], ["--since", "soon"], ["--of", "nobody"]):
        code, says = asked("flows", file, *arguments)
        assert code == 64 and arguments[1] in says and len(says.splitlines()) == 1
    code, says = asked("log", "nowhere[0]", file)
    assert code == 64 and "order-events" in says
    assert asked("log", "order-events[7]", file)[0] == 64
    assert asked("log", "order-events", file, "--header", "ce_type")[0] == 64


# -- log ---------------------------------------------------------------------------------------------


def test_a_record_is_shown_as_an_event_raw_and_with_who_applied_it(shop: Constructed, file: Path) -> None:
    code, told = asked("log", "billing-events[0]@1", file, "--limit", 2)
    assert (code, len(told["records"])) == (0, 2)
    assert told["older"] == "billing-events[0]@0" and told["newer"] == "billing-events[0]@3"
    paid = next(one for one in told["records"] if one["event"]["type"] == "PaymentConfirmed")
    event = the(shop, "PaymentConfirmed")
    assert paid["event"]["id"] == str(event.id) == paid["raw"]["headers"][5]
    assert (paid["raw"]["key"], json.loads(paid["raw"]["payload"])) == (str(ADA), paid["event"]["data"])
    assert paid["decided"]["input"] == "OrderCreated"
    assert {one["service"]: one["outcome"] for one in paid["heard"]} == {
        "order": "applied",
        "notification": "applied",
    }
    assert all(one["at"] for one in paid["heard"])


def test_records_are_found_by_type_key_and_header_and_the_newest_of_a_topic(
    shop: Constructed, file: Path
) -> None:
    def places(*arguments: object) -> list[int]:
        return [one["offset"] for one in asked("log", "billing-events", file, *arguments)[1]["records"]]

    count = len(shop.topics["billing"])
    assert places() == list(range(count))
    assert places("--limit", 2) == [count - 2, count - 1]
    types = [event.type for event in shop.topics["billing"]]
    rejected = [types.index("PaymentRejected")]
    flow = the(shop, "PaymentRejected").correlation_id
    for wanted in (["--type", "PaymentRejected"], ["--header", f"ce_correlationid={flow}"]):
        assert places(*wanted) == rejected
    assert places("--key", str(ADA)[:8]) == list(range(count))
    assert places("--type", "NoSuchType") == []


def test_a_record_that_is_no_event_is_shown_with_who_parked_it(file: Path, tmp_path: Path) -> None:
    """Whatever its bytes are, they are shown; and what a terminal would obey does not reach it."""
    strange = TopicRecord(
        "order-events", 0, 90, 0, True, Record(b"\xff", b"\x1b[2J<script>", [("ce_type", None)])
    )
    recording = Recording(file)
    items = [item for batch in recording.read() for item in batch]
    entry = next(item for item in items if isinstance(item, JournalEntry) and item.service == "billing")
    id = derived_id("record", "order-events", 0, 90)
    parked = replace(entry, id=id, type="", outcome="parked", offset=90, position=90, correlation_id=None)
    spans = recording.cut.spans | {("order-events", 0): Span(0, 91, 91)}
    path = tmp_path / "strange.ndjson"
    with Writer(path, replace(recording.cut, spans=spans), None) as writer:
        writer.write([strange, *items, parked])
        writer.finish()
    _, told = asked("log", "order-events[0]@90", path)
    (record,) = told["records"]
    assert record["event"] is None and "ce_type" in record["not_an_event"]
    assert record["raw"]["base64"] == ["key"] and record["raw"]["payload"].endswith("<script>")
    assert [(one["service"], one["outcome"]) for one in record["heard"]] == [("billing", "parked")]
    shown = CliRunner().invoke(app, ["log", "order-events[0]@90", str(path), "--raw"])
    assert shown.exit_code == 0 and "\x1b" not in shown.stdout and "\\u001b[2J<script>" in shown.stdout
