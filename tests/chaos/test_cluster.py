"""Three brokers: one of them may die under load."""

import pytest

from chaos.faults import leader_killed
from chaos.programme import keep_evidence
from chaos.trial import Trial
from choreo.throwaway import ThrowawaySystem
from embedded.process import Unavailable

SEED = 1
THREE = ("choreo.cli", "up", "--json", "--brokers", "3")
ONE = ("choreo.cli", "up", "--json", "--brokers", "1")


def test_every_promise_holds_when_a_leader_dies_and_the_data_keeps_its_number_of_brokers() -> None:
    with ThrowawaySystem(THREE) as system:
        system.start()
        assert {"kafka-1", "kafka-2", "kafka-3"} < set(system.run_file["pids"])
        trial = Trial(system, SEED)
        outcome = trial.put_through(leader_killed())
        if outcome.violations:
            print(f"The evidence is in {keep_evidence(trial)}")
        assert outcome.violations == ()
        assert system.stop() < 15, "killed, because it did not stop by itself"
        system._up = ONE
        with pytest.raises(Unavailable, match="is that of 3 brokers and cannot be spread over 1"):
            system.start()
