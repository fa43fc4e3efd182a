"""Every fault of the reliability programme, on one real system under load, judged after each."""

from collections.abc import Iterator

import pytest

from choreo.chaos.faults import FAULTS, Fault
from choreo.chaos.programme import UP, keep_evidence
from choreo.chaos.trial import Trial
from choreo.operations.acting.throwaway import ThrowawaySystem

SEED = 1


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with ThrowawaySystem(UP) as system:
        system.start()
        trial = Trial(system, SEED)
        yield trial
        if trial.violations:
            print(f"The evidence is in {keep_evidence(trial)}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_promise_holds_after(fault: Fault, trial: Trial) -> None:
    outcome = trial.put_through(fault)
    assert outcome.violations == ()
    assert outcome.repeats or not fault.repeats, "what the outbox still held was not published again"
