"""Three brokers: one of them may die under load, and all end with the system."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from choreo.chaos.faults.clean import leader_killed
from choreo.chaos.programme import keep_evidence
from choreo.chaos.trial import Trial
from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.chaos.rates import RATES

SEED = 1
THREE = ("choreo.cli.main", "up", "--json", "--brokers", "3")


@pytest.fixture(scope="module")
def system() -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem(THREE) as system:
        system.start()
        yield system


def test_every_promise_holds_when_a_leader_dies_and_comes_back(system: ThrowawaySystem) -> None:
    assert {"kafka-1", "kafka-2", "kafka-3"} < set(system.run_file["pids"])
    trial = Trial(system, SEED, RATES)
    outcome = trial.put_through(leader_killed())
    if outcome.violations:
        print(f"The evidence is in {keep_evidence(trial)}")
    assert outcome.violations == ()


def test_three_brokers_end_in_time_and_are_what_the_data_is_of(system: ThrowawaySystem) -> None:
    supervisor = psutil.Process(system.supervisor_pid)
    expected = supervisor.children(recursive=True)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 0
    assert psutil.wait_procs(expected, timeout=30)[1] == []
    again = [sys.executable, "-m", "choreo.cli.main", "up", "--brokers", "1"]
    done = subprocess.run(again, env=system.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert "is that of 3 brokers and cannot be spread over 1" in done.stderr
