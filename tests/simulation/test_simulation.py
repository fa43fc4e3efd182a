"""Worlds in simulated time: they hold, a seed is one world, and a promise without its guard breaks."""

import os
import subprocess
import sys

import pytest

from choreo.errors import HandlerMisbehaves
from choreo.simulation.programme import simulate
from choreo.simulation.world import play
from tests.removals.guards import GUARDS
from tests.replay import plants

CAUGHT = {
    "position-with-effect": 100,
    "derived-id": 60,
    "outbox-in-transaction": 100,
    "answer-after-commit": 100,
}
"""Guards of the promise whose removal is seen, and within how many seeds from 1 on."""

_DIGEST = """
import hashlib
from choreo.simulation.world import play
outcome = play(11, trace=True)
print(outcome.steps, hashlib.sha256("\\n".join(outcome.told).encode()).hexdigest())
"""


def test_promises_hold_whatever_befalls() -> None:
    summary = simulate(range(5_000, 5_050))
    assert [outcome.violations for outcome in summary.broken] == []
    assert summary.schedules == 50
    assert summary.faults > 50


@pytest.mark.parametrize("guard", CAUGHT)
def test_a_promise_without_its_guard_is_seen_to_break(monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    GUARDS[guard].take_out(monkeypatch)
    summary = simulate(range(1, 1 + CAUGHT[guard]))
    assert summary.broken, f"not seen in {summary.schedules} schedules"
    (broken,) = summary.broken
    assert broken.violations


def test_a_handler_that_tries_to_reach_outside_ends_it_and_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plants.everything_that_is_refused(monkeypatch.setattr)
    plants.TOUCHED.unlink(missing_ok=True)
    with pytest.raises(HandlerMisbehaves, match=r"plants.py:\d+ tries to open a socket"):
        play(1)
    assert not plants.TOUCHED.exists()


def test_a_seed_is_the_same_world_in_another_process() -> None:
    """Whatever order its sets have there."""
    told = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


def test_seeds_differ() -> None:
    assert play(1).steps != play(2).steps
