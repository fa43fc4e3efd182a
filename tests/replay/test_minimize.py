"""A recording is made smaller until no input can go, and still diverges for the same reason."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.chassis.registry import services
from choreo.cli.main import app
from choreo.errors import Incomplete, UsageError
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.records import JournalEntry
from choreo.replay.verify.minimize import ddmin
from choreo.replay.verify.report import report_on
from choreo.replay.verify.verify import verify
from tests.replay import plants
from tests.replay.planted_bugs import WITHOUT_PLUGINS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    plant: Callable[..., None]
    service: str
    inputs: list[str]
    """What is left."""


CASES = [
    Case(plants.amount_off_by_one, "billing", ["UserRegistered", "Deposit"]),
    Case(
        plants.order_for_exactly_the_balance_is_not_paid,
        "billing",
        ["UserRegistered", "Deposit", "OrderCreated"],
    ),
    Case(plants.swapped_field, "billing", ["UserRegistered"]),
    Case(
        plants.a_decision_less,
        "billing",
        ["UserRegistered", "Deposit", "OrderCreated", "Withdraw", "OrderCancelled"],
    ),
    Case(plants.a_decision_more, "billing", ["UserRegistered", "Deposit", "OrderCreated", "OrderCreated"]),
    Case(plants.other_refusal, "billing", ["UserRegistered", "Deposit", "OrderCreated", "Withdraw"]),
    Case(plants.a_bug, "order", ["PlaceOrder", "PaymentRejected"]),
    Case(plants.clock_read_in_a_handler, "order", ["PlaceOrder"]),
    Case(plants.changed_text, "notification", ["UserRegistered", "PaymentConfirmed"]),
]


def invoked(*arguments: str | Path) -> int:
    return int(app([*map(str, arguments)], standalone_mode=False))


def types(recording: Recording) -> list[str]:
    return [item.type for batch in recording.read() for item in batch if isinstance(item, JournalEntry)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.plant.__name__)
def test_of_a_planted_change_a_few_inputs_are_left_and_they_match_the_right_code(
    recording: Recording, tmp_path: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.ndjson.gz"
    with pytest.MonkeyPatch.context() as monkeypatch:
        case.plant(monkeypatch.setattr)
        assert invoked("minimize", recording.path, "-o", small, "--json") == 1
        told = json.loads(capsys.readouterr().out)
        here = services(recording.cut.settings)
        whole = asyncio.run(verify(recording, here)).findings
        left = asyncio.run(verify(Recording(small), {case.service: here[case.service]})).findings
    assert types(Recording(small)) == [one["type"] for one in told["inputs"]] == case.inputs
    assert [(one.service, one.key, one.event) for one in left] == [
        (whole[0].service, whole[0].key, whole[0].event)
    ]
    report = asyncio.run(report_on(Recording(small), [case.service]))
    assert (report.findings, report.unstable) == ([], [])


def test_the_written_test_fails_with_the_bug_and_passes_without(recording: Recording, tmp_path: Path) -> None:
    written = tmp_path / "test_story.py"
    with pytest.MonkeyPatch.context() as monkeypatch:
        plants.amount_off_by_one(monkeypatch.setattr)
        assert invoked("minimize", recording.path, "--pytest", written) == 1
    planting = tmp_path / "conftest.py"
    planting.write_text("from tests.replay import plants\n\nplants.amount_off_by_one()\n")
    failed = run_pytest(written)
    assert failed.returncode == 1 and "leads to another MoneyDeposited" in failed.stdout
    planting.unlink()
    passed = run_pytest(written)
    assert passed.returncode == 0 and "1 passed" in passed.stdout


def run_pytest(test: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    environment = os.environ | WITHOUT_PLUGINS | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=test.parent, env=environment, capture_output=True, text=True)


def test_what_matches_is_left_alone(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoked("minimize", recording.path, "-o", tmp_path / "small") == 0
    assert "nothing to minimize" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_was_cut_off_is_incomplete(recording: Recording, tmp_path: Path) -> None:
    cut_off = tmp_path / "cut_off.ndjson"
    cut_off.write_bytes(recording.path.read_bytes()[:-200])
    with pytest.raises(Incomplete, match="cut off"):
        invoked("minimize", cut_off)


@pytest.mark.parametrize("arguments", [["--pytest", "test.txt"], ["-o", "{file}"]])
def test_a_file_is_neither_overwritten_nor_written_under_a_wrong_name(
    tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "recording.ndjson"
    with pytest.raises(UsageError):
        invoked("minimize", file, *(one.format(file=file) for one in arguments))


@given(st.sets(st.frozensets(st.integers(0, 11), min_size=1), min_size=1, max_size=4))
def test_of_what_fails_for_any_reason_no_part_can_go(reasons: set[frozenset[int]]) -> None:
    async def fails(candidate: Sequence[int]) -> bool:
        return any(reason <= set(candidate) for reason in reasons)

    left = asyncio.run(ddmin(list(range(12)), fails, lambda to_come, left: None))
    assert left == sorted(left) and set(left) in [set(reason) for reason in reasons]
    for part in left:
        assert not asyncio.run(fails([one for one in left if one != part]))
