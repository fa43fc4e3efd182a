"""The rows as they were, who wrote them, and the handlers once more: on streams without a broker."""

import asyncio
import io
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_service.evolve import evolve as evolve_billing
from choreo import progress
from choreo.cli.main import app
from choreo.errors import Incomplete, UsageError
from choreo.message.codec import TopicRecord
from choreo.message.envelope import Event
from choreo.replay.engine.cases import case_taken
from choreo.replay.engine.debugger import debug
from choreo.replay.engine.expressions import BadExpression, Expression, names_at
from choreo.replay.engine.sandbox import SideEffect, no_side_effects
from choreo.replay.engine.walk import Ahead, Walk
from choreo.replay.history.blame import changes, last_of_each
from choreo.replay.history.moments import (
    AfterId,
    AfterPlace,
    AtTime,
    End,
    Moment,
    NoMoment,
    moment_of,
    settled,
)
from choreo.replay.history.state import Tables, differences, live_rows, tables_at
from events.billing import MoneyDeposited, PaymentRejected
from tests.replay.constructed import NAMES, Constructed, a_story, rows_of
from tests.unit.facts import ADA
from tests.unit.spec import START

T = TypeVar("T")
ROOT = Path(__file__).parents[2]

wishes = st.lists(
    st.sampled_from(["deposit", "withdraw", "order", "order", "cancel", "register", "settle", "deliver"]),
    max_size=8,
)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def played(wanted: list[str]) -> Constructed:
    shop = Constructed()
    for number, wish in enumerate(wanted):
        shop.seconds += 1
        match wish:
            case "deposit":
                shop.deposit(5)
            case "withdraw":
                shop.withdraw(3)
            case "order":
                shop.place(1 + number % 7)
            case "cancel" if shop.orders:
                shop.cancel(number)
            case "register":
                shop.register()
            case "settle":
                shop.settle()
            case "deliver":
                shop.publish("order")
                shop.deliver("billing", "order")
    shop.settle()
    return shop


def walk_of(shop: Constructed, name: str) -> Walk[Any]:
    return Walk(shop, shop.described(name))


def at(shop: Constructed, name: str, moment: Moment) -> dict[str, dict[Any, tuple[Any, ...]]]:
    walk = walk_of(shop, name)
    (tables,) = run(tables_at(walk, moment))
    assert (walk.lacks, moment.reached) == ([], True)
    return _rows(walk, tables)


def _rows(walk: Walk[Any], tables: Tables) -> dict[str, dict[Any, tuple[Any, ...]]]:
    return {
        mapping.table.name: {name: row for name, (row, _) in tables.of(mapping).items()}
        for mapping in walk.service.store.mappings
    }


# -- laws --------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(wishes)
def test_at_the_end_the_rows_are_the_live_ones(wanted: list[str]) -> None:
    shop = played(wanted)
    for name in NAMES:
        service = shop.described(name)
        assert at(shop, name, End()) == rows_of(service, shop.journaling[name].state)


@settings(max_examples=8, deadline=None)
@given(wishes)
def test_at_any_moment_the_rows_are_the_fold_of_what_came_before(wanted: list[str]) -> None:
    shop = played(wanted)
    for name in NAMES:
        here, service = shop.journaling[name], shop.described(name)
        for entry, state in zip(here.journal, here.after, strict=True):
            assert at(shop, name, AfterId(entry.id)) == rows_of(service, state)
            if entry.topic is not None:
                place = AfterPlace(entry.topic, 0, entry.offset or 0)
                assert at(shop, name, place) == rows_of(service, state)
            by_then = [
                after for one, after in zip(here.journal, here.after, strict=True) if one.now <= entry.now
            ]
            assert at(shop, name, AtTime(entry.now)) == rows_of(service, by_then[-1])


@settings(max_examples=12, deadline=None)
@given(wishes)
def test_blame_names_the_last_step_that_changed_a_column(wanted: list[str]) -> None:
    shop = played(wanted)
    for name in NAMES:
        here, service = shop.journaling[name], shop.described(name)
        histories = [rows_of(service, state) for state in [here.empty, *here.after]]
        for mapping in service.store.mappings:
            table = mapping.table.name
            for row in histories[-1][table]:
                walk = Walk(shop, service)
                found = last_of_each(run(changes(walk, mapping, row)))
                for number, column in enumerate(mapping.table.columns):
                    told = [rows[table].get(row) for rows in histories]
                    last = max(
                        index
                        for index in range(1, len(told))
                        if (now := told[index]) is not None
                        and ((was := told[index - 1]) is None or was[number] != now[number])
                    )
                    assert found[column.name].cause.id == here.journal[last - 1].id
                    assert found[column.name].new == histories[-1][table][row][number]


# -- moments -----------------------------------------------------------------------------------------


def test_an_own_event_is_the_step_that_decided_it() -> None:
    shop = a_story()
    here = shop.journaling["billing"]
    paid = next(event for event in here.decided if event.type == "PaymentConfirmed")
    number = next(i for i, entry in enumerate(here.journal) if entry.id == paid.causation_id)
    expected = rows_of(shop.described("billing"), here.after[number])
    assert at(shop, "billing", AfterId(paid.id)) == expected
    place = AfterPlace("billing-events", 0, here.decided.index(paid))
    assert at(shop, "billing", run(settled(place, shop, "billing"))) == expected
    with pytest.raises(NoMoment, match=r"Nothing lies at billing-events\[0\]@999"):
        run(settled(AfterPlace("billing-events", 0, 999), shop, "billing"))


def test_a_moment_is_a_time_an_id_or_a_place() -> None:
    id = "6f0c1a52-0f6b-4a53-8d36-2a0b7f8e1c11"
    assert moment_of("2030-01-01T00:00:00Z", START) == AtTime(START)
    assert moment_of("-90s", START) == AtTime(START - timedelta(seconds=90))
    assert moment_of(id, START) == AfterId(UUID(id))
    assert moment_of("order-events[2]@17", START, "t1-") == AfterPlace("t1-order-events", 2, 17)
    assert moment_of("t1-order-events[2]@17", START, "t1-") == AfterPlace("t1-order-events", 2, 17)
    for wrong in ("yesterday", "2030-01-01T00:00:00", "order-events@17"):
        with pytest.raises(NoMoment, match="is no moment"):
            moment_of(wrong, START)


def test_what_is_not_there_is_never_reached() -> None:
    moment = AfterId(ADA)
    run(tables_at(walk_of(a_story(), "billing"), moment))
    assert not moment.reached


# -- differences -------------------------------------------------------------------------------------


def test_a_difference_names_the_columns_and_the_line_that_wrote_them() -> None:
    shop = a_story()
    first = shop.journaling["billing"].journal[1]
    assert first.type == "Deposit"
    walk = walk_of(shop, "billing")
    before, after = run(tables_at(walk, AfterId(first.id), End()))
    mapping = walk.service.store.mappings[0]
    (found,) = differences(mapping.table, dict(before.of(mapping)), dict(after.of(mapping)))
    assert (found.change, list(found.columns)) == ("changed", [("balance", 400_00, 399_99)])
    assert found.cause is not None and (found.cause.type, found.cause.fact) == ("Withdraw", "MoneyWithdrawn")
    file, line = found.cause.handler.split(":")
    assert "case MoneyWithdrawn(" in (ROOT / file).read_text().splitlines()[int(line) - 1]


def test_of_two_cases_for_a_type_the_one_taken_is_named() -> None:
    shop = Constructed()
    shop.place(1)
    shop.publish("order")
    shop.deliver("billing", "order")
    shop.cancel(0)
    shop.publish("order")
    shop.deliver("billing", "order")
    shop.settle()
    ahead = next(one for one in run(_aheads(shop, "notification")) if one.entry.type == "PaymentRejected")

    def evolve(state: Any, event: Any) -> Any:
        match event.data:
            case PaymentRejected(reason="insufficient_funds"):
                return "too dear"
            case PaymentRejected(reason="order_cancelled"):
                return "cancelled"
        return state

    assert isinstance(ahead.taken.input, Event)
    file, line = case_taken(evolve, ahead.taken.state, ahead.taken.input).split(":")
    assert 'reason="order_cancelled"' in (ROOT / file).read_text().splitlines()[int(line) - 1]


def test_a_live_row_that_no_event_made_has_no_cause() -> None:
    shop = a_story()
    walk = walk_of(shop, "billing")
    (end,) = run(tables_at(walk, End()))
    mapping = walk.service.store.mappings[0]
    same = run(live_rows(shop, "billing", mapping, end))
    assert list(differences(mapping.table, dict(end.of(mapping)), same)) == []
    here = shop.journaling["billing"]
    here.state = replace(here.state, account=replace(here.state.account, balance=1))
    (found,) = differences(
        mapping.table, dict(end.of(mapping)), run(live_rows(shop, "billing", mapping, end))
    )
    assert (found.columns, found.cause) == ([("balance", 399_99, 1)], None)


# -- what is missing ---------------------------------------------------------------------------------


class Gappy(Constructed):
    async def batches(self) -> Any:
        async for batch in super().batches():
            if not (isinstance(batch[0], TopicRecord) and batch[0].topic == "user-events"):
                yield batch


def test_a_record_that_is_missing_is_said() -> None:
    shop = a_story()
    shop.__class__ = Gappy
    walk = walk_of(shop, "billing")
    run(tables_at(walk, End()))
    (lack,) = walk.lacks
    assert "which billing heard at user-events[0]@0, is not there" in lack


def test_as_today_decides_it_a_key_ends_where_the_number_of_steps_differs() -> None:
    shop = a_story()
    service = shop.described("billing")
    silent = replace(service, decider=replace(service.decider, react=lambda event, state: []))
    walk = Walk(shop, silent, today=True)
    run(tables_at(walk, End()))
    (lack,) = walk.lacks
    assert "choreo verify --service billing" in lack


# -- no side effects ---------------------------------------------------------------------------------


def _connects() -> None:
    socket.create_connection(("127.0.0.1", 1))


def _writes() -> None:
    Path("written").write_text("")


def _starts() -> None:
    subprocess.run(["true"], check=False)


def _hides() -> None:
    with suppress(Exception):
        os.remove("nothing")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (_connects, "tries to open a socket"),
        (_writes, "tries to write the file written"),
        (_starts, "tries to start a process"),
        (_hides, "tries to remove a file"),
    ],
)
def test_a_handler_that_acts_fails_with_a_sentence(
    act: Callable[[], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def evolve(state: Any, event: Event[Any]) -> Any:
        if isinstance(event.data, MoneyDeposited):
            act()
        return evolve_billing(state, event)

    shop = a_story()
    service = shop.described("billing")
    walk = Walk(shop, replace(service, decider=replace(service.decider, evolve=evolve)))
    with pytest.raises(SideEffect, match=rf"^tests/replay/test_time_travel.py:\d+ {says}.*no side effects"):
        run(tables_at(walk, End()))
    assert not (tmp_path / "written").exists()
    (tmp_path / "afterwards").write_text("nothing is refused any more")


def test_reading_and_computing_are_no_side_effects() -> None:
    with no_side_effects():
        assert Path(__file__).read_text()


# -- expressions -------------------------------------------------------------------------------------


async def _aheads(shop: Constructed, name: str) -> list[Ahead]:
    found = []
    walk = walk_of(shop, name)
    async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
        async for ahead in inputs:
            found.append(ahead)
            walk.take(ahead)
    return found


def test_an_expression_knows_the_data_what_surrounds_it_and_the_state() -> None:
    aheads = run(_aheads(a_story(), "billing"))
    big = Expression('type=="OrderCreated" and price>40000', "--break")
    assert [ahead.entry.offset for ahead in aheads if big.value(names_at(ahead))] == [1]
    withdraw = next(names_at(ahead) for ahead in aheads if ahead.entry.type == "Withdraw")
    assert Expression("state.account.balance", "--log").value(withdraw) == 30000
    assert Expression('now < "2031" and key == user_id', "--log").value(withdraw) is True
    assert Expression("[row.outcome for row in (state.payments[id],) ]", "--log").text
    with pytest.raises(NameError):
        Expression("open('x')", "--log").value(withdraw)


def test_a_wrong_expression_is_one_sentence_with_its_place() -> None:
    with pytest.raises(BadExpression, match=r"^--break is no Python expression at column \d+: .*: amount >$"):
        Expression("amount >", "--break")


# -- pdb ---------------------------------------------------------------------------------------------


def test_whoever_debugs_stands_on_the_first_line_of_the_handler() -> None:
    ahead = next(ahead for ahead in run(_aheads(a_story(), "billing")) if ahead.entry.type == "OrderCreated")
    out = io.StringIO()
    debug(ahead.taken, io.StringIO("p event.data.price\nc\nc\np command.order_id\nq\n"), out)
    first, *rest = out.getvalue().splitlines()
    assert first.startswith(f"> {ROOT}/billing_service/evolve.py(") and first.endswith("evolve()")
    assert rest[:2] == ["-> match event.data:", "(Pdb) 10000"]
    places = re.findall(r"> .*/(\w+\.py)\(", out.getvalue())
    assert places == ["evolve.py", "react.py", "decide.py"]
    assert rest[-2].startswith("(Pdb) UUID(")
    out = io.StringIO()
    debug(ahead.taken, io.StringIO("n\n" * 200), out)
    assert "replay/" not in out.getvalue() and "bdb.py" not in out.getvalue()


def test_what_a_debugged_handler_raises_is_told() -> None:
    def evolve(state: Any, event: Event[Any]) -> Any:
        raise ZeroDivisionError("a bug")

    ahead = next(ahead for ahead in run(_aheads(a_story(), "billing")) if ahead.entry.type == "OrderCreated")
    service = replace(ahead.taken.service, decider=replace(ahead.taken.service.decider, evolve=evolve))
    out = io.StringIO()
    debug(replace(ahead.taken, service=service), io.StringIO("c\n"), out)
    assert out.getvalue().endswith("raises ZeroDivisionError('a bug')\n")


# -- the verbs, on a recording -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Constructed, str]:
    shop = a_story()
    return shop, str(shop.recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson"))


def choreo(*arguments: str) -> Any:
    return app(list(arguments), standalone_mode=False)


Story = tuple[Constructed, str]
Out = pytest.CaptureFixture[str]


def test_state_prints_rows_with_their_causes(story: Story, capsys: Out) -> None:
    shop, file = story
    deposit = shop.journaling["billing"].journal[1]
    choreo("state", "billing", file, "--at", str(deposit.id), "--json")
    (account,) = json.loads(capsys.readouterr().out)["tables"]["accounts"]
    assert account["row"]["balance"] == 40000
    assert (account["cause"]["type"], account["cause"]["fact"]) == ("Deposit", "MoneyDeposited")
    choreo("state", "billing", file, "--at", str(deposit.id), "--diff", "live", "--table", "accounts")
    told = capsys.readouterr().out
    assert f"~ accounts {ADA}" in told and "balance  40000 → 39999" in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_blame_prints_the_writer_of_a_column(story: Story, capsys: Out) -> None:
    _, file = story
    choreo("blame", "billing", "accounts", str(ADA), "balance", file)
    told = capsys.readouterr().out
    assert "MoneyWithdrawn" in told and "40000 → 39999" in told and "billing_service/evolve.py:" in told
    assert f"choreo replay {file} --service billing --key {ADA} --until " in told
    choreo("blame", "billing", "accounts", str(ADA), file, "--json")
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert columns["currency"]["cause"]["fact"] == "AccountCreated"


def test_replay_stops_where_asked_and_logs_what_was_asked(story: Story, capsys: Out) -> None:
    shop, file = story
    choreo("replay", file, "--service", "billing", "--break", 'type=="OrderCreated" and price>40000')
    told = capsys.readouterr().out
    assert "--break is true before OrderCreated" in told and "→ PaymentRejected" in told
    assert (
        "  amount 50000, reason insufficient_funds, balance 30000\n        billing_service/decide.py:" in told
    )
    choreo("replay", file, "--service", "billing", "--log", "balance_")
    assert "NameError: name 'balance_' is not defined" in capsys.readouterr().out
    choreo("replay", file, "--service", "billing", "--break", 'type=="OrderCreated" and amount>1', "--json")
    (end,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert end["break_errors"] == [
        {"error": "NameError: name 'amount' is not defined at OrderCreated", "steps": 2}
    ]
    deposit = shop.journaling["billing"].journal[1]
    choreo("replay", file, "--service", "billing", "--until", str(deposit.id), "--json")
    *steps, state, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["type"] for step in steps] == ["UserRegistered", "Deposit"]
    assert [row["balance"] for row in state["tables"]["accounts"]] == [40000]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["state", "shipping", "FILE", "--at", "-1s"], "There is no service shipping"),
        (["state", "billing", "FILE", "--at", "yesterday"], "is no moment"),
        (["state", "billing", "FILE", "--at", str(ADA)], "has applied nothing that is"),
        (["state", "billing", "FILE", "--at", "-1s", "--table", "money"], "choose from accounts, payments"),
        (["state", "billing", "FILE", "--at", "-1s", "--history"], "--history goes with --key"),
        (["blame", "billing", "money", str(ADA), "balance", "FILE"], "choose from accounts, payments"),
        (["blame", "billing", "accounts", "1", "balance", "FILE"], "1 is no user_id of accounts"),
        (["blame", "billing", "accounts", str(START), "x", "FILE"], "is no user_id of accounts"),
        (["blame", "billing", "accounts", str(ADA), "money", "FILE"], "choose from user_id, id, currency"),
        (["blame", "billing", "ledger", str(ADA), "kind", "FILE"], "is keyed by entry_id,side"),
        (["blame", "order", "orders", str(ADA), "status", "FILE"], "it has 2, such as"),
        (["replay", "FILE", "--service", "billing", "--break", "price >"], "is no Python expression at"),
        (["replay", "FILE", "--service", "billing", "--pdb"], "--pdb needs --break"),
        (["replay", "nowhere", "--service", "billing"], "nowhere is not there"),
    ],
)
def test_wrong_usage_is_a_sentence(story: Story, arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choreo(*[story[1] if word == "FILE" else word for word in arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["state", "billing", "FILE", "--at", "-0s"], "replaying: "),
        (["blame", "billing", "accounts", str(ADA), "FILE"], "replaying: "),
        (["replay", "FILE", "--service", "billing"], "replaying: "),
        (["trace", str(ADA), "FILE"], "reading: "),
        (["verify", "FILE"], "replaying: "),
        (["minimize", "FILE"], "replaying: "),
    ],
    ids=lambda given: given[0],
)
def test_long_work_says_how_far_it_is(
    story: Story, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    with suppress(Incomplete):
        choreo(*[story[1] if word == "FILE" else word for word in arguments])
    assert says in capsys.readouterr().err


def test_what_a_recording_lacks_is_a_sentence(story: Story) -> None:
    with pytest.raises(Incomplete, match="has no journal of user"):
        choreo("state", "user", story[1], "--at", "-1s")
