"""`choreo demo` as a process: against a running system, and where none runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from choreo import story
from choreo.client import Customer
from choreo.demo import Acts, JsonScreen, perform
from choreo.story import Stage
from choreo.throwaway import ThrowawaySystem

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def system() -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem() as system:
        system.start()
        yield system


def demo(home: Path, port_base: int, **more: str) -> "subprocess.Popen[str]":
    outer = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_SERVERS"))}
    own = {"CHOREO_HOME": str(home), "CHOREO_PORT_BASE": str(port_base), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "choreo.cli", "demo", "--json"],
        env=outer | own | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), output[-2000:] + errors
    return [json.loads(line) for line in output.splitlines()]


def caused_by(lines: list[dict[str, Any]], method: str, path: str) -> list[list[tuple[str, str]]]:
    """For each such request the events beneath it: type, and because of what."""
    flows = [
        line["flow"]
        for line in lines
        if line["kind"] == "request" and (line["method"], line["path"]) == (method, path)
    ]
    return [
        [
            (line["type"], line["because_of"])
            for line in lines
            if line["kind"] == "event" and line["flow"] == flow
        ]
        for flow in flows
    ]


def test_it_tells_the_story_in_causal_order_on_the_running_system(system: ThrowawaySystem) -> None:
    lines = lines_of(demo(system.home, system.port_base))
    assert lines[-1] == {"kind": "end", "says": lines[-1]["says"], "holds": True}

    (registered, taken, *_) = caused_by(lines, "POST", "/users")
    assert registered == [("UserRegistered", "POST /users"), ("AccountCreated", "UserRegistered")]
    assert taken == []
    confirmed, rejected, *_ = caused_by(lines, "POST", "/orders")
    assert confirmed == [
        ("OrderCreated", "POST /orders"),
        ("PaymentConfirmed", "OrderCreated"),
        ("NotificationSent", "PaymentConfirmed"),
    ]
    assert rejected == [
        ("OrderCreated", "POST /orders"),
        ("PaymentRejected", "OrderCreated"),
        ("NotificationSent", "PaymentRejected"),
    ]
    events = [line for line in lines if line["kind"] == "event"]
    assert len({(line["topic"], line["partition"], line["offset"]) for line in events}) == len(events)
    subjects = [line["subject"].partition(":")[0] for line in lines if line["kind"] == "mail"]
    assert subjects == ["Good news", "Sorry", "Good news"]


def test_where_none_runs_it_starts_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lines = lines_of(demo(tmp_path / "nowhere", 9_900, TMPDIR=str(tmp_path)))
    assert lines[-2]["holds"] is True
    assert list(tmp_path.iterdir()) == []
    assert [process for process in psutil.process_iter() if _names(process, tmp_path)] == []


async def test_an_expectation_that_does_not_hold_is_told_in_a_sentence(
    system: ThrowawaySystem, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong(stage: Stage) -> Customer:
        """Bob has more than he has"""
        bob = await Customer.register(stage.services)
        await stage.eventually("the account is there", bob.account, lambda answer: answer.status_code == 200)
        await story.balance_is(stage, bob, "400.00")
        return bob

    async def play(acts: Acts) -> None:
        await acts.scene(wrong)

    assert not await perform(play, system.run_file, JsonScreen())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {
        "kind": "end",
        "says": "It does not hold that the account holds 400.00: expected '400.00', got '0.00'.",
        "holds": False,
    }
    assert next(line["type"] for line in lines if line["kind"] == "event") == "UserRegistered"


def _names(process: psutil.Process, path: Path) -> bool:
    """In its arguments or its environment."""
    try:
        return any(str(path) in text for text in (*process.cmdline(), *process.environ().values()))
    except psutil.Error:
        return False
