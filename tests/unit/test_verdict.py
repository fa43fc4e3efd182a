"""What `choreo verify` prints."""

import sys
from dataclasses import replace

import pytest

from choreo.cli.debugging.verify_formats import print_closed_loop, print_report
from choreo.replay.verify.findings import Allowance, Finding
from choreo.replay.verify.report import Report

EDITED = Finding(
    "state", "billing", "accounts 7 has another balance", expected={"balance": 449}, got={"balance": 399}
)


def told(report: Report, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line."""
    print_report(report, None)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_difference_says_which_value_lies_there_and_which_is_replayed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = told(Report([EDITED]), capsys)
    assert ["recorded", '{"balance":', "449}"] in lines
    assert ["replayed", '{"balance":', "399}"] in lines


def test_what_was_looked_at_is_a_line_for_each_service(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"billing rows": 15, "billing inputs": 7, "user steps": 2, "items": 9}
    lines = told(Report(counts=counts), capsys)
    assert lines[1:] == [
        ["inputs", "steps", "decisions", "records", "rows"],
        ["user", "0", "2", "0", "0", "0"],
        ["billing", "7", "0", "0", "0", "15"],
    ]


def otherwise(number: int, **data: int) -> Finding:
    was = {"amount": 820, "payment_id": 7}
    return Finding(
        "step",
        "billing",
        f"OrderCancelled {number} leads to another PaymentRefunded",
        f"key-{number}",
        f"e-{number}",
        "OrderCancelled",
        handler="decide.py:60",
        expected={"id": f"id-{number}", "data": was},
        got={"id": f"id-{number}", "data": was | data},
    )


def test_of_two_facts_only_what_differs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(Report([otherwise(1, amount=816)]), capsys)
    assert ["recorded", '{"data":', '{"amount":', "820}}"] in lines
    assert ["replayed", '{"data":', '{"amount":', "816}}"] in lines


def test_on_a_terminal_every_line_but_commands_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    id = "7d1b1c0e-8f39-5d0a-9a53-0f6f2f6f5c11"
    lines = tuple(f"billing_service/a_module_{number}.py:59" for number in range(4))
    long = [
        replace(
            otherwise(number, amount=816),
            says=f"OrderCancelled {id} leads to another PaymentRefunded than the one at billing-events[0]@7",
            lines=lines,
            handler=lines[-1],
            parts=f"{lines[0]} leads to {lines[1]} in one replay, and to {lines[2]} in the other",
            got={f"field {field}": field for field in range(12)},
        )
        for number in range(2)
    ]
    effect = replace(long[0], kind="effect", got="a word of it " * 12)
    allowed = [(long[1], Allowance("the mail about a refund is friendlier since the twelfth of May"))]
    absent = {"loyalty": "loyalty is younger than this recording, and so are a few others of which nothing"}
    report = Report(long, [effect], allowed=allowed, idle=[allowed[0][1]], absent=absent)
    for print_it in (print_report, print_closed_loop):
        print_it(report, None)
        printed = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in printed if "choreo " not in line) <= 80
        assert len(printed) > 20


def test_what_is_alike_is_summed_up_with_one_example(capsys: pytest.CaptureFixture[str]) -> None:
    alike = [otherwise(number, amount=900 + number) for number in range(61)]
    another = otherwise(61, payment_id=5)
    lines = told(Report([*alike, another]), capsys)
    assert ["alike", "61", "keys,", "all", "through", "decide.py:60:", "--json", "prints", "them"] in lines
    shown = [line[2:4] for line in lines if line[0] == "billing:"]
    assert shown == [["OrderCancelled", "0"], ["OrderCancelled", "61"]]


def test_another_decision_is_told_by_its_amounts_and_not_as_long_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = dict.fromkeys(("order_id", "user_id"), "2b1c5d1f-0000-5000-8000-000000000001")
    poor = {"amount": 5, "reason": "insufficient_funds"}
    confirmed = {"type": "PaymentConfirmed", "id": "1", "data": ids | {"amount": 5, "balance": 2}}
    rejected = {"type": "PaymentRejected", "id": "2", "data": ids | poor}
    refused = {"type": "InsufficientFunds", "balance": 2, "requested": 5}
    paid = "PaymentConfirmed amount 5, balance 2"
    finding = replace(EDITED, kind="step")
    for expected, got, recorded, replayed in (
        (confirmed, rejected, paid, "PaymentRejected amount 5, reason insufficient_funds"),
        (None, [confirmed], "nothing", paid),
        ([confirmed], refused, paid, "InsufficientFunds balance 2, requested 5"),
        ([confirmed], [confirmed | {"id": "3"}], '[{"id": "1"}]', '[{"id": "3"}]'),
    ):
        lines = told(Report([replace(finding, expected=expected, got=got)]), capsys)
        assert ["recorded", *recorded.split()] in lines and ["replayed", *replayed.split()] in lines


def test_of_two_long_texts_only_where_they_part_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Dear ada, " + "your order was paid. " * 20 + "Your balance is {} EUR." + " Thank you." * 20
    changed = replace(EDITED, expected={"text": text.format("3.00")}, got={"text": text.format("3.50")})
    recorded, replayed = told(Report([changed]), capsys)[1:3]
    assert " ".join(recorded) == 'recorded {"text": "…. Your balance is 3.00 EUR. Thank you. Th…"}'
    assert " ".join(replayed) == 'replayed {"text": "…. Your balance is 3.50 EUR. Thank you. Th…"}'
