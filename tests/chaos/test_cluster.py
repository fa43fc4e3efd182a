"""Three brokers: one of them may die under load."""

from choreo.chaos.faults.clean import leader_killed
from choreo.chaos.programme import keep_evidence
from choreo.chaos.trial import Trial
from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.chaos.rates import RATES

SEED = 1
THREE = ("choreo.cli.main", "up", "--json", "--brokers", "3")


def test_every_promise_holds_when_a_leader_dies_and_comes_back() -> None:
    with ThrowawaySystem(THREE) as system:
        system.start()
        assert {"kafka-1", "kafka-2", "kafka-3"} < set(system.run_file["pids"])
        trial = Trial(system, SEED, RATES)
        outcome = trial.put_through(leader_killed())
        if outcome.violations:
            print(f"The evidence is in {keep_evidence(trial)}")
        assert outcome.violations == ()
