"""A verification passes where nothing changed, and names what did: on a real shop, and on its recording."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from choreo.cli.debugging.record import recorded
from choreo.message.codec import Headers, Record, TopicRecord
from choreo.replay.sources.live import Live, open_live
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Cut, Item, Span
from choreo.replay.verify.findings import Allowance
from choreo.replay.verify.report import Report, report_on
from tests.choreography.ending import sent_out
from tests.replay import plants
from tests.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def live(shop: Shop) -> AsyncIterator[Live]:
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        yield source


async def verified(shop: Shop) -> Report:
    async with live(shop) as source:
        return await report_on(source)


async def test_an_unchanged_shop_matches_and_nothing_is_sent_or_published(played: Shop) -> None:
    before = await sent_out(played)
    report = await verified(played)
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)
    assert report.counts["billing steps"] > 15 and report.counts["billing rows"] > 15
    assert await sent_out(played) == before


@pytest.mark.parametrize("name", ["plain.ndjson", "zipped.ndjson.gz"])
@pytest.mark.parametrize("with_addresses", [True, False])
async def test_its_recording_matches(played: Shop, tmp_path: Path, name: str, with_addresses: bool) -> None:
    await recorded(played.installation, tmp_path / name, with_addresses=with_addresses)
    report = await report_on(Recording(tmp_path / name))
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)
    assert report.counts["billing tables"] == 6


async def test_addresses_are_not_in_a_recording(recording: Recording) -> None:
    assert "@example.com" not in recording.path.read_text()
    assert "@redacted.invalid" in recording.path.read_text()


async def test_a_recorded_flow_holds_its_key_from_the_beginning_and_matches(
    played: Shop, tmp_path: Path
) -> None:
    ((flow, key),) = played.rows(
        "billing", "SELECT correlation_id, key FROM journal WHERE type = 'OrderCancelled' LIMIT 1"
    )
    await recorded(played.installation, tmp_path / "flow.ndjson", flow=flow)
    found = Recording(tmp_path / "flow.ndjson")
    assert found.cut.keys == frozenset({key})
    report = await report_on(found)
    assert (report.findings, report.exit_code) == ([], 0)
    assert report.counts["user steps"] == 1


async def test_up_to_any_moment_a_recording_matches(played: Shop, tmp_path: Path) -> None:
    ((middle,),) = played.rows(
        "billing", "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY decided_at) FROM journal"
    )
    await recorded(played.installation, tmp_path / "half.ndjson", until=middle)
    report = await report_on(Recording(tmp_path / "half.ndjson"))
    assert (report.findings, report.exit_code) == ([], 0)


@dataclass(frozen=True)
class Change:
    """What is planted, and what a verification says of it first."""

    plant: Callable[..., None]
    exit_code: int
    service: str
    type: str
    kind: str = "step"
    handler: str = "tests/replay/plants.py:"


CHANGES = [
    Change(plants.amount_off_by_one, 1, "billing", "Deposit"),
    Change(
        plants.order_for_exactly_the_balance_is_not_paid,
        1,
        "billing",
        "OrderCreated",
        handler="billing_service/decide.py:",
    ),
    Change(
        plants.changed_text,
        1,
        "notification",
        "PaymentConfirmed",
        "state",
        handler="notification_service/evolve.py:",
    ),
    Change(plants.swapped_field, 1, "billing", "UserRegistered"),
    Change(plants.a_decision_less, 1, "billing", "OrderCancelled"),
    Change(plants.a_decision_more, 1, "billing", "OrderCreated", handler="billing_service/decide.py:"),
    Change(plants.other_refusal, 1, "billing", "Withdraw"),
    Change(plants.a_bug, 1, "order", "PaymentRejected"),
    Change(plants.clock_read_in_a_handler, 2, "order", "PlaceOrder", "effect"),
    Change(plants.iteration_over_a_set, 2, "billing", "UserRegistered", handler="billing_service/decide.py:"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.plant.__name__)
async def test_a_planted_change_is_found_and_named(
    played: Shop, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    change.plant(monkeypatch.setattr)
    async with live(played) as source:
        report = await report_on(source, preload=[f"{plants.__name__}:{change.plant.__name__}"])
    assert report.exit_code == change.exit_code
    found = report.unstable if change.exit_code == 2 else report.findings
    first = found[0]
    assert (first.kind, first.service, first.type) == (change.kind, change.service, change.type)
    assert first.handler.startswith(change.handler)
    assert played.rows(change.service, "SELECT type FROM journal WHERE id = %s", first.event) == [
        (first.type,)
    ]
    assert {finding.service for finding in found} == {change.service}, "the others are as they were"


async def test_a_change_of_the_rows_alone_is_found_in_a_recording(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.changed_text(monkeypatch.setattr)
    report = await report_on(recording, preload=[f"{plants.__name__}:changed_text"])
    assert {(one.kind, one.table, one.column, one.type) for one in report.findings} == {
        ("state", "notifications", "text", "PaymentConfirmed")
    }
    assert (report.exit_code, report.unstable) == (1, [])


async def test_a_change_that_was_meant_is_allowed(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.changed_text(monkeypatch.setattr)
    meant = Allowance("we are glad", service="notification", table="notifications")
    idle = Allowance("nobody did that", service="order")
    report = await report_on(recording, allowances=[meant, idle], preload=[f"{plants.__name__}:changed_text"])
    assert (report.exit_code, report.idle) == (0, [idle])
    assert {allowance for _, allowance in report.allowed} == {meant}


async def test_a_row_edited_by_hand_is_found_with_its_column(played: Shop) -> None:
    who = "balance = %s AND user_id IN (SELECT user_id FROM payments)"  # one that was emptied, not a new one
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute(f"UPDATE accounts SET balance = 1 WHERE {who}".encode(), [0])
    report = await verified(played)
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute(f"UPDATE accounts SET balance = 0 WHERE {who}".encode(), [1])
    assert {(finding.kind, finding.table, finding.column) for finding in report.findings} == {
        ("state", "accounts", "balance")
    }
    assert (report.exit_code, report.findings[0].type) == (1, "PaymentConfirmed")
    assert (report.findings[0].expected, report.findings[0].got) == ({"balance": 1}, {"balance": 0})


async def test_about_one_key_or_a_time_no_more_is_read_than_that_takes_and_all_of_it_is_compared(
    played: Shop,
) -> None:
    here = played.installation

    async def verified_about(*keys: str) -> Report:
        async def about(_: object) -> Collection[str]:
            return keys

        async with open_live(
            here.kafka, here.database_urls, here.settings, about=about, partition_of=here.partition_of
        ) as source:
            return await report_on(source)

    whole = await verified(played)
    poor, other = played.rows("billing", "SELECT user_id::text, balance FROM accounts ORDER BY balance")[:2]
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute("UPDATE accounts SET balance = balance + 1 WHERE user_id = %s", [poor[0]])
    found, beside, nobody = [await verified_about(*keys) for keys in ([poor[0]], [other[0]], [])]
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute("UPDATE accounts SET balance = balance - 1 WHERE user_id = %s", [poor[0]])
    assert [(finding.table, finding.key) for finding in found.findings] == [("accounts", poor[0])]
    assert (beside.exit_code, beside.findings) == (0, [])
    assert 0 < beside.counts["billing steps"] < whole.counts["billing steps"]
    assert 0 < beside.counts["billing rows"] < whole.counts["billing rows"]
    assert beside.counts["items"] < whole.counts["items"]
    # Whether a login is free depends on others, so of the user service all are read.
    assert nobody.counts["user steps"] == whole.counts["user steps"] and "order steps" not in nobody.counts


async def test_a_journal_row_that_is_gone_is_incomplete(played: Shop) -> None:
    taken = (
        "DELETE FROM journal WHERE type = 'Deposit' AND step = (SELECT min(step) FROM journal"
        " WHERE type = 'Deposit') RETURNING *"
    )
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute(f"CREATE TABLE kept AS WITH taken AS ({taken}) SELECT * FROM taken".encode())
    report = await verified(played)
    with psycopg.connect(played.owner_urls["billing"]) as conn:
        conn.execute("INSERT INTO journal OVERRIDING SYSTEM VALUE SELECT * FROM kept")
        conn.execute("DROP TABLE kept")
    assert report.exit_code == 3
    assert "the journal of billing lacks" in report.findings[0].says


Tamper = Callable[[list[Item], Cut], tuple[list[Item], Cut]]


def lose(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    return [item for item in items if item is not _some(items)], cut


def repeat(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    return _append(items, cut, _some(items).record)


def double(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    record = _some(items).record
    return _append(items, cut, Record(record.key, record.value, _renamed(record.headers)))


def swap(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    """Two decisions about one key have changed places."""
    one = _some(items)
    other = next(
        item
        for item in items[items.index(one) + 1 :]
        if isinstance(item, TopicRecord) and (item.topic, item.record.key) == (one.topic, one.record.key)
    )
    swapped = {
        id(one): replace(one, record=other.record),
        id(other): replace(other, record=one.record),
    }
    return [swapped.get(id(item), item) for item in items], cut


def _some(items: list[Item]) -> TopicRecord:
    """The first deposit."""
    return next(
        item
        for item in items
        if isinstance(item, TopicRecord) and ("ce_type", b"MoneyDeposited") in item.record.headers
    )


def _append(items: list[Item], cut: Cut, record: Record) -> tuple[list[Item], Cut]:
    place = _some(items).topic, _some(items).partition
    span = cut.spans[place]
    longer = Span(span.first, span.end + 1, span.end + 1)
    item = replace(_some(items), offset=span.end, record=record)
    return [*items, item], replace(cut, spans={**cut.spans, place: longer})


def _renamed(headers: Headers) -> Headers:
    return [(name, str(uuid4()).encode() if name == "ce_id" else value) for name, value in headers]


@pytest.mark.parametrize(
    ("tamper", "exit_code", "says"),
    [
        (lose, 3, "lacks offsets"),
        (repeat, 0, ""),
        (double, 1, "is no decision of billing at this place"),
        (swap, 1, "MoneyDeposited"),
    ],
)
async def test_a_record_that_is_lost_or_doubled_or_moved_is_found(
    recording: Recording, tmp_path: Path, tamper: Tamper, exit_code: int, says: str
) -> None:
    items = [item for batch in recording.read() for item in batch]
    items, cut = tamper(items, recording.cut)
    with Writer(tmp_path / "tampered", cut, None) as writer:
        writer.write(items)
        writer.finish()
    report = await report_on(Recording(tmp_path / "tampered"))
    assert report.exit_code == exit_code
    assert any(says in finding.says for finding in report.findings) or not says
    assert report.counts.get("billing repeated records", 0) == (1 if tamper is repeat else 0)


async def test_one_service_or_a_share_of_the_keys_can_be_verified(recording: Recording) -> None:
    report = await report_on(recording, ["billing"])
    assert report.exit_code == 0 and "order steps" not in report.counts
    sampled = await report_on(recording, sample=0.3)
    assert sampled.exit_code == 0
    assert sampled.counts.get("billing steps", 0) < report.counts["billing steps"]
