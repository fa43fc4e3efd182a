"""Intended changes: what a file of them may say, and what it then lets pass."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from choreo.cli.debugging.verify_formats import print_report
from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.replay.verify.findings import Allowance, Finding, WrongAllowance, read_allowances
from choreo.replay.verify.report import Report

ROW = Finding("state", "billing", "", type="PaymentConfirmed", table="accounts", column="balance")
ROW = replace(ROW, event="e1", handler="billing_service/evolve.py:59")
STEP = Finding("step", "billing", "", type="OrderCreated")
LACK = Finding("incomplete", "billing", "", type="OrderCreated", table="accounts")


def read(tmp_path: Path, text: str) -> list[Allowance]:
    path = tmp_path / "meant.toml"
    path.write_text(text)
    return read_allowances(path)


def test_what_is_written_is_what_is_allowed(tmp_path: Path) -> None:
    text = """
        [[change]]
        reason = "cents are rounded"
        service = "billing"
        table = "accounts"
        column = "balance"

        [[change]]
        reason = "no fee"
        type = "OrderCreated"
    """
    assert read(tmp_path, text) == [
        Allowance("cents are rounded", service="billing", table="accounts", column="balance"),
        Allowance("no fee", type="OrderCreated"),
    ]
    assert read(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[change]", "cannot be read: .*line 1"),
        ("\x00", "cannot be read"),
        ("changes = 1", "may hold [[change]] only, not changes"),
        ("[change]\nreason = 'a'\nservice = 'order'", "may hold [[change]] only, in two brackets"),
        ("change = 'all'", "may hold [[change]] only, in two brackets"),
        ("change = ['all']", "change 1: it is no table"),
        ("[[change]]\nservice = 'order'", "change 1: give a reason and at least one of service, type,"),
        ("[[change]]\nreason = 'a'", "change 1: give a reason and at least one of service, type,"),
        ("[[change]]\nreason = ''\nservice = 'order'", "change 1: reason must be text, and not empty"),
        ("[[change]]\nreason = 'a'\nservice = ['order']", "change 1: service must be text"),
        ("[[change]]\nreason = 7\ncolumn = true", "change 1: column, reason must be text"),
        (
            "[[change]]\nreason = 'a'\nat_most = 7",
            "change 1: give a reason and at least one of service, type,",
        ),
        ("[[change]]\nreason = 'a'\ntype = 'A'\nat_most = 0", "change 1: at_most must be a number above 0"),
        ("[[change]]\nreason = 'a'\nsince = 'May'", "change 1: since must be a time with its zone"),
        ("[[change]]\nreason = 'a'\nuntil = 2030-01-01", "change 1: until must be a time with its zone"),
        ("[[change]]\nreason = 'a'\nevents = 'all'", "change 1: events must be a list of texts"),
        (
            "[[change]]\nreason = 'a'\nservice = 'order'\n[[change]]\nreason = 'b'\nkind = 'step'",
            "change 2: kind is not known; choose from at_most, column, event, events, handler,",
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_a_sentence(
    tmp_path: Path, text: str, says: str
) -> None:
    pattern = re.escape(says).replace(re.escape(".*"), ".*")
    with pytest.raises(WrongAllowance, match=f"^{re.escape(str(tmp_path))}.*{pattern}"):
        read(tmp_path, text)


def test_the_verb_calls_that_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    for name in ("nowhere.toml", "latin.toml"):
        with pytest.raises(UsageError, match=f"{name} cannot be read"):
            app(["verify", "nothing", "--allow", str(tmp_path / name)], standalone_mode=False)


@pytest.mark.parametrize("name", ["service", "type", "table", "column", "event", "handler"])
def test_what_an_entry_names_must_be_so_and_the_rest_may_be_anything(name: str) -> None:
    named = Allowance("meant", **{name: getattr(ROW, name)})
    assert named.allows(ROW)
    another: dict[str, Any] = {name: "another"}
    assert not named.allows(replace(ROW, **another))
    assert Allowance("meant").allows(ROW)


def test_all_that_an_entry_names_must_be_so() -> None:
    both = Allowance("meant", service="billing", type="OrderCreated")
    assert both.allows(STEP) and not both.allows(ROW)


def test_an_entry_can_be_as_narrow_as_some_events_a_time_a_line_and_a_number() -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    at_noon = replace(STEP, time="2030-01-01T12:00:00Z", lines=("a.py:1", "b.py:2"), event="e2")
    assert Allowance("meant", events=("e1", "e2")).allows(at_noon)
    assert not Allowance("meant", events=("e1",)).allows(at_noon)
    assert Allowance("meant", handler="a.py:1").allows(at_noon)
    assert not Allowance("meant", handler="c.py:1").allows(at_noon)
    assert Allowance("meant", since=noon, until=noon).allows(at_noon)
    assert not Allowance("meant", since=noon + timedelta(seconds=1)).allows(at_noon)
    assert not Allowance("meant", until=noon).allows(ROW), "nobody knows when"
    report = Report([replace(STEP, event=str(number)) for number in range(3)])
    report.allow([Allowance("meant", type="OrderCreated", at_most=2)])
    assert (len(report.allowed), [finding.event for finding in report.findings]) == (2, ["2"])


def test_an_allowance_that_matches_nothing_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "meant.toml").write_text("[[change]]\nreason = 'long ago'\nservice = 'billing'\n")
    arguments = ["verify", "events/recordings/every-fact-1.ndjson", "--allow", str(tmp_path / "meant.toml")]
    with pytest.raises(UsageError, match=r"allows what has not happened \(long ago\)"):
        app(arguments, standalone_mode=False)


def test_what_is_missing_cannot_be_allowed() -> None:
    assert not Allowance("meant", service="billing").allows(LACK)


def test_what_was_meant_is_taken_out_and_what_matches_nothing_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report([ROW, STEP, LACK])
    rounded, idle = Allowance("rounded", table="accounts"), Allowance("never happened", service="order")
    report.allow([rounded, idle])
    assert (report.findings, report.allowed, report.idle) == ([STEP, LACK], [(ROW, rounded)], [idle])
    print_report(report, None)
    told = capsys.readouterr().out
    assert "billing: allowed (rounded)" in told
    assert "nothing matches the allowed change: never happened" in told
