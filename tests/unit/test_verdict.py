"""What `choreo verify` prints."""

import pytest

from choreo.cli.debugging.verify_formats import print_report
from choreo.replay.verify.findings import Finding
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
