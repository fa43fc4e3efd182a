"""Closed to a loop, unchanged code makes the record again; changed code tells what would have come of it."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from typer.testing import CliRunner

import notification_service.texts
from billing_service.decide import _rejected
from choreo.chassis.registry import services
from choreo.chassis.transaction.step import Decider
from choreo.cli.debugging.record import recorded
from choreo.cli.debugging.verify_formats import print_closed_loop
from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.message.codec import TopicRecord
from choreo.message.decider import Command, Decision
from choreo.replay.sources.live import open_live
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Cut, Item, JournalEntry
from choreo.replay.verify.closed_loop import closed_loop
from choreo.replay.verify.findings import Tally
from choreo.replay.verify.report import Report, closed_loop_report
from choreo.replay.verify.simulation import Difference, Origin
from events.billing import PaymentConfirmed, PaymentRefunded
from order_service.commands import CancelOrder
from tests.choreography.ending import sent_out
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed, a_story
from tests.shop import Shop
from tests.unit.choreography import DEADLINE, DECIDERS, Choreography
from tests.unit.test_choreography import (
    AnyOrder,
    deaf,
    spoilt,
    the_balance_is_not_looked_at,
    what_was_paid_is_not_given_back,
)

live = pytest.mark.asyncio(loop_scope="session")


def of(shop: Constructed, **changed: Any) -> Tally:
    """`changed` are settings that are others today."""
    known = services(shop.cut.settings.model_copy(update=changed))
    return asyncio.run(closed_loop(shop, {name: known[name] for name in NAMES}))


# -- the law -----------------------------------------------------------------------------------------


class AnyRecord(AnyOrder):
    """Any interleaving, recorded at any moment."""

    world: ClassVar[type[Choreography]] = Constructed

    def teardown(self) -> None:
        self.matches()
        self.shop.settle()
        self.matches()

    def matches(self) -> None:
        assert isinstance(self.shop, Constructed)
        tally = of(self.shop)
        assert tally.findings == []
        assert tally.counts["inputs"] == sum(len(one.journal) for one in self.shop.journaling.values())
        assert tally.counts["facts"] == sum(len(one.decided) for one in self.shop.journaling.values())


def test_unchanged_code_makes_any_record_again() -> None:
    looking = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(AnyRecord, settings=looking)


Deciders = dict[str, Decider[Any]]


def asked(deciders: Deciders, wishes: Sequence[tuple[str, int]]) -> Constructed:
    """Each wish when all that came of the one before is over."""
    shop = Constructed(deciders)
    shop.register()
    shop.settle()
    for what, number in wishes:
        if what == "order":
            shop.place(number)
        elif what != "cancel":
            getattr(shop, what)(number)
        elif shop.orders:
            shop.cancel(number)
        shop.settle()
        shop.seconds += 1
    return shop


def the_last_penny_is_not_enough(command: Command, state: Any, decision: Decision) -> Decision:
    match decision:
        case [PaymentConfirmed(balance=0) as paid]:
            payment = state.payments[paid.order_id]
            return [_rejected(payment, "insufficient_funds", state.account.balance)]
    return decision


def what_is_paid_stays_paid(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, CancelOrder) and state.orders[command.order_id].payment == "confirmed":
        return []
    return decision


CHANGED: dict[str, tuple[str, Deciders]] = {
    "the last penny is not enough": ("billing", spoilt("billing", the_last_penny_is_not_enough)),
    "the balance is not looked at": ("billing", spoilt("billing", the_balance_is_not_looked_at)),
    "what was paid is not given back": ("billing", spoilt("billing", what_was_paid_is_not_given_back)),
    "what is paid stays paid": ("order", spoilt("order", what_is_paid_stays_paid)),
    "a refund does not change the status": ("order", deaf("order", PaymentRefunded)),
}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("mended", [False, True], ids=["broken", "mended"])
@settings(max_examples=8, deadline=None)
@example(wishes=[("deposit", 1), ("order", 1), ("cancel", 1), ("withdraw", 1)])
@given(
    st.lists(
        st.tuples(st.sampled_from(["deposit", "withdraw", "order", "order", "cancel"]), st.integers(1, 3)),
        max_size=12,
    )
)
def test_what_is_told_is_what_comes_of_the_same_requests(
    changed: str, mended: bool, wishes: list[tuple[str, int]]
) -> None:
    name, deciders = CHANGED[changed]
    old, new = (deciders, DECIDERS) if mended else (DECIDERS, deciders)
    before, after = asked(old, wishes), asked(new, wishes)
    known = {name: services(before.cut.settings)[name] for name in NAMES}
    known[name] = replace(known[name], decider=new[name])
    found = asyncio.run(closed_loop(before, known)).findings
    assert not [one.says for one in found if one.kind == "incomplete" or "raises" in one.says]
    told = outcomes(before)
    for finding in found:
        assert isinstance(finding, Difference)
        if finding.kind == "state":
            told.pop(finding.row, None)
            if finding.got:
                told[finding.row] = finding.got | ({"status": "sent"} if "text" in finding.got else {})
    assert told == outcomes(after)


def outcomes(shop: Constructed) -> dict[str, dict[str, Any]]:
    account, orders = shop.services["billing"].state.account, shop.orders.values()
    told = shop.services["notification"].state.notifications.values()
    shown = ("kind", "status", "subject", "text")
    return {
        str(account.user_id): {"balance": account.balance},
        **{str(order.id): {"status": order.status, "reason": order.reason} for order in orders},
        **{str(one.id): {name: getattr(one, name) for name in shown} for one in told},
    }


async def looped(shop: Shop, preload: Sequence[str] = ()) -> Report:
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        return await closed_loop_report(source, preload=preload)


@live
async def test_an_unchanged_shop_is_the_record_and_nothing_is_sent_or_published(played: Shop) -> None:
    before = await sent_out(played)
    report = await looped(played)
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)
    assert report.counts["facts"] > 30 and report.counts["order orders"] > 8
    assert await sent_out(played) == before


@live
async def test_so_is_its_recording(recording: Recording) -> None:
    report = await closed_loop_report(recording)
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)


# -- what would have come of it ----------------------------------------------------------------------

Planted = Callable[[str], list[str]]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Changes the code here; what is given back changes it in the second process."""

    def plant(name: str) -> list[str]:
        getattr(plants, name)(monkeypatch.setattr)
        return [f"{plants.__name__}:{name}"]

    return plant


@live
@pytest.mark.parametrize("recorded_first", [False, True], ids=["live", "recording"])
async def test_who_pays_with_the_last_penny_would_have_been_rejected_and_told_so(
    played: Shop, recording: Recording, planted: Planted, recorded_first: bool
) -> None:
    preload = planted("order_for_exactly_the_balance_is_not_paid")
    report = (
        await closed_loop_report(recording, preload=preload)
        if recorded_first
        else await looped(played, preload)
    )
    ((exactly, bob),) = played.rows("order", "SELECT id, user_id FROM orders WHERE price = 1000")
    ((cheap,),) = played.rows("order", "SELECT id FROM orders WHERE price = 100 AND user_id = %s", bob)
    first, *others = [one for one in report.findings if isinstance(one, Difference)]
    assert (report.exit_code, len(others)) == (1, len(report.findings) - 1)
    assert (first.kind, first.service, first.type) == ("step", "billing", "OrderCreated")
    assert first.handler.startswith("billing_service/decide.py:")
    assert first.says.endswith("leads to PaymentRejected, and not to PaymentConfirmed")
    assert {one.origin["event"] for one in [first, *others] if one.origin} == {first.event}
    paid, refused = (
        {"status": "confirmed", "reason": None},
        {"status": "rejected", "reason": "insufficient_funds"},
    )
    ended = {(one.table, one.row): (one.expected, one.got) for one in others if one.table}
    assert ended.pop(("orders", str(exactly))) == (paid, refused)
    assert ended.pop(("orders", str(cheap))) == (refused, paid), "the money is still there"
    told = sorted(
        (before is None, (before or after)["kind"], (after or before)["text"].count("too little"))
        for (table, _), (before, after) in ended.items()
        if table == "notifications"
    )
    assert told == [
        (False, "order_confirmed", 0),
        (False, "order_rejected", 1),
        (True, "order_confirmed", 0),
        (True, "order_rejected", 1),
    ], "one of each is gone, and one of each is new"
    assert [one for (table, _), one in ended.items() if table == "accounts"] == [
        ({"balance": 0}, {"balance": 900})
    ]
    assert (len(ended), report.counts["facts gone"], report.counts["facts new"]) == (5, 4, 2)


def test_a_longer_deadline_would_have_let_an_order_be_paid() -> None:
    shop = Constructed()
    shop.register()
    shop.deliver("billing", "user")
    shop.deposit(7)
    shop.place(5)
    shop.seconds += DEADLINE + 1
    shop.fetch_end()
    shop.look_for_due_orders()
    shop.expire()
    shop.publish("order")
    shop.publish("order")
    shop.settle()
    ((id, order),) = shop.orders.items()
    assert order.reason == "expired"
    assert of(shop).findings == []
    tally = of(shop, own={"order": {"decide_within": 10.0 * DEADLINE}})
    ends = [finding for finding in tally.findings if finding.table == "orders"]
    assert [finding.says for finding in ends] == [f"order {id} is confirmed, and was refunded (expired)"]
    assert [finding.type for finding in ends] == ["PlaceOrder"], "which told the deadline"


def test_what_is_decided_anew_is_heard_before_whatever_was_asked_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cancel that came after the rejection was heard: it was accepted, as the order was paid."""
    shop = Constructed()
    shop.register()
    shop.settle()
    shop.deposit(5)
    shop.place(5)
    shop.settle()
    shop.cancel(0)
    shop.settle()
    plants.order_for_exactly_the_balance_is_not_paid(monkeypatch.setattr)
    steps = {finding.type: finding for finding in of(shop).findings if finding.kind == "step"}
    assert steps["OrderCreated"].says.endswith("leads to PaymentRejected, and not to PaymentConfirmed")
    assert steps["CancelOrder"].says.endswith("does not lead to OrderCancelled any more")
    assert steps["CancelOrder"].got == {"type": "AlreadyOver", "status": "rejected"}
    assert steps["OrderCancelled"].says.endswith("is not decided any more, so there is no PaymentRefunded")


def test_changes_that_do_not_meet_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = a_story()
    plants.changed_text(monkeypatch.setattr)
    plants.other_refusal(monkeypatch.setattr)
    told = {(one.service, one.type, one.handler.partition(":")[0]) for one in of(shop).findings}
    assert told == {
        ("notification", "PaymentConfirmed", "notification_service/evolve.py"),
        ("billing", "Withdraw", "tests/replay/plants.py"),
    }


def test_what_cannot_be_handled_holds_up_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = a_story()
    plants.a_bug(monkeypatch.setattr)
    found = of(shop).findings
    assert "raises ZeroDivisionError: a bug" in found[0].says
    ended = [(finding.expected, finding.got) for finding in found if finding.table == "orders"]
    assert [(before["status"], after["status"]) for before, after in ended] == [
        ("refunded", "cancelled"),
        ("rejected", "created"),
    ], "the refund queues behind the rejection that could not be handled"


def test_a_handler_that_acts_is_told_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def acting(fact: Any) -> Any:
        (tmp_path / "acted").touch()

    shop = a_story()
    monkeypatch.setattr(notification_service.texts, "order_confirmed", acting)
    (found,) = [finding for finding in of(shop).findings if finding.kind == "effect"]
    assert re.match(r"tests/replay/test_closed_loop.py:\d+ tries to change a file", found.says)
    assert not (tmp_path / "acted").exists()


@live
async def test_code_that_reads_a_clock_is_not_deterministic(recording: Recording, planted: Planted) -> None:
    report = await closed_loop_report(recording, preload=planted("clock_read_in_a_handler"))
    assert report.exit_code == 2
    assert "PlaceOrder" in {finding.type for finding in report.unstable}


@live
async def test_a_recording_says_that_rows_are_others_and_the_system_says_which(
    played: Shop, recording: Recording, planted: Planted
) -> None:
    preload = planted("changed_text")
    report = await closed_loop_report(recording, preload=preload)
    assert [(finding.kind, finding.table) for finding in report.findings] == [("state", "notifications")]
    assert "only a digest" in report.findings[0].says and report.exit_code == 1
    found = (await looped(played, preload)).findings
    assert {finding.says.split()[1] for finding in found} == {"order_confirmed"}
    assert {(finding.column, finding.type) for finding in found} == {("text", "PaymentConfirmed")}


# -- what is missing ---------------------------------------------------------------------------------


@live
async def test_a_flow_is_enough_for_what_would_have_come_of_it(
    played: Shop, tmp_path: Path, planted: Planted
) -> None:
    ((flow, id),) = played.rows("order", "SELECT correlation_id, id FROM orders WHERE price = 1000")
    await recorded(played.installation, tmp_path / "flow.ndjson", flow=flow)
    report = await closed_loop_report(Recording(tmp_path / "flow.ndjson"))
    assert (report.findings, report.exit_code, report.counts["keys"]) == ([], 0, 1)
    preload = planted("order_for_exactly_the_balance_is_not_paid")
    report = await closed_loop_report(Recording(tmp_path / "flow.ndjson"), preload=preload)
    assert f"order {id} is rejected (insufficient_funds), and was confirmed" in said(report)


@live
async def test_up_to_any_moment_a_recording_is_enough(played: Shop, tmp_path: Path) -> None:
    ((moment,),) = played.rows(
        "billing", "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY decided_at) FROM journal"
    )
    await recorded(played.installation, tmp_path / "part.ndjson", until=moment)
    report = await closed_loop_report(Recording(tmp_path / "part.ndjson"))
    assert (report.findings, report.exit_code) == ([], 0)


@live
async def test_who_was_refused_because_of_somebody_else_cannot_be_judged_alone(
    played: Shop, tmp_path: Path
) -> None:
    ((flow,),) = played.rows(
        "user", "SELECT correlation_id FROM journal WHERE type = 'Register' AND outcome = 'refused'"
    )
    await recorded(played.installation, tmp_path / "flow.ndjson", flow=flow)
    report = await closed_loop_report(Recording(tmp_path / "flow.ndjson"))
    assert report.exit_code == 3
    assert "was refused is not in a recording of some keys" in said(report)[0]


def without_a_journal(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    left = [item for item in items if not (isinstance(item, JournalEntry) and item.service == "billing")]
    return left, replace(cut, services=("user", "order", "notification"))


def reduced(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    return items, replace(cut, reduced=True)


def without_a_record(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    return [item for item in items if item is not first(items, TopicRecord)], cut


def without_an_entry(items: list[Item], cut: Cut) -> tuple[list[Item], Cut]:
    deposit = next(item for item in items if isinstance(item, JournalEntry) and item.type == "Deposit")
    return [item for item in items if item is not deposit], cut


def first(items: list[Item], kind: type[Item]) -> Item:
    return next(item for item in items if isinstance(item, kind))


@live
@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (without_a_journal, "the journal of billing is not recorded: a closed loop needs those of all"),
        (reduced, "inputs were left out of this recording"),
        (without_a_record, "lacks offsets"),
        (without_an_entry, "no input of billing in the stream led to MoneyDeposited"),
    ],
)
async def test_what_is_missing_is_said(
    recording: Recording, tmp_path: Path, tamper: Callable[..., Any], says: str
) -> None:
    items, cut = tamper([item for batch in recording.read() for item in batch], recording.cut)
    with Writer(tmp_path / "tampered", cut, None) as writer:
        writer.write(items)
        writer.finish()
    report = await closed_loop_report(Recording(tmp_path / "tampered"))
    assert report.exit_code == 3
    assert any(says in one for one in said(report)), said(report)


def said(report: Report) -> list[str]:
    return [finding.says for finding in report.findings]


# -- the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_it", [["--service", "billing"], ["--sample", "0.5"]])
def test_half_a_loop_is_a_usage_error(recording: Recording, with_it: list[str]) -> None:
    result = CliRunner().invoke(app, ["verify", str(recording.path), "--closed-loop", *with_it])
    assert isinstance(result.exception, UsageError)
    assert "leave out --service and --sample" in str(result.exception)


def test_a_service_that_is_younger_than_the_recording_takes_no_part(
    recording: Recording, tmp_path: Path
) -> None:
    cut = replace(
        recording.cut,
        services=tuple(name for name in recording.cut.services if name != "notification"),
        spans={place: at for place, at in recording.cut.spans.items() if "notification" not in place[0]},
    )
    with Writer(tmp_path / "older.ndjson", cut, None) as writer:
        for batch in recording.read():
            writer.write(
                [
                    item
                    for item in batch
                    if (
                        (item.topic, item.partition) in cut.spans
                        if isinstance(item, TopicRecord)
                        else item.service in cut.services
                    )
                ]
            )
        writer.finish()
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "older.ndjson"), "--closed-loop", "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"], told["findings"]) == (0, "match", [])
    assert told["not_verified"] == {"notification": "notification is younger than this recording"}
    assert told["counts"]["order orders"] > 8 and "notification notifications" not in told["counts"]


def test_the_command_prints_how_much_it_looked_at(recording: Recording) -> None:
    result = CliRunner().invoke(app, ["verify", str(recording.path), "--closed-loop"])
    assert result.exit_code == 0 and result.stdout.startswith("match: ")
    told = json.loads(
        CliRunner().invoke(app, ["verify", str(recording.path), "--closed-loop", "--json"]).stdout
    )
    assert (told["verdict"], told["findings"]) == ("match", [])
    assert told["counts"]["order orders"] > 8


def test_a_difference_is_printed_with_what_shows_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = a_story()
    plants.a_decision_less(monkeypatch.setattr)
    report = Report(of(shop).findings)
    print_closed_loop(report, Path("a.ndjson"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("billing: OrderCancelled ")
    assert lines[0].endswith(" does not lead to PaymentRefunded any more")
    assert "  more      choreo verify a.ndjson --service billing" in lines
    id = next(id for id, order in shop.orders.items() if order.status == "refunded")
    ended = lines.index(f"  so in order: order {id} is cancelled (by_user), and was refunded (by_user)")
    assert lines[ended + 1] == f"    more      choreo trace {id} a.ndjson"
    assert next(line for line in lines if line.startswith("  recorded")) == (
        "  recorded  PaymentRefunded amount 10000, balance 40000"
    )


def test_differences_that_begin_alike_are_one_example_and_a_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alike = [
        Difference(
            "step",
            "billing",
            f"OrderCreated {number} leads to nothing",
            f"key-{number}",
            handler="decide.py:60",
        )
        for number in range(61)
    ]
    alike = [
        replace(
            one,
            origin=Origin(service="billing", type="OrderCreated", event=one.key, at="", time="", handler=""),
        )
        for one in alike
    ]
    print_closed_loop(Report(list(alike)), None)
    lines = capsys.readouterr().out.splitlines()
    assert sum("OrderCreated" in line for line in lines) == 1
    assert "  alike     61 keys, all through decide.py:60: --json prints them" in lines
