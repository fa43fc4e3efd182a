"""One of each kind of fault of the reliability programme, on one real system under load, judged after each.
`choreo chaos` strikes every service with each of them, and `choreo chaos --half` has those that take long.
"""

import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from choreo.chaos.faults.clean import FAULTS
from choreo.chaos.faults.fault import Fault
from choreo.chaos.faults.half import (
    an_address_refused,
    kept_away,
    key_locked,
    without_smtputf8,
    written_in_transactions,
)
from choreo.chaos.programme import UP, keep_evidence
from choreo.chaos.trial import Trial
from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.chaos.rates import RATES
from tests.services import SERVICES

SEED = 1
QUICK = (
    kept_away("postgres", signal.SIGQUIT, 3.0),
    an_address_refused(),
    key_locked(seconds=3.0),
    written_in_transactions(),
    without_smtputf8(),
)


def one_of_each_kind(faults: Sequence[Fault]) -> list[Fault]:
    """Of those that differ in the service alone one, of each kind with another service."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        kinds[re.sub("|".join(SERVICES), "*", fault.name)].append(fault)
    return [alike[number % len(alike)] for number, alike in enumerate(kinds.values())]


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with ThrowawaySystem(UP) as system:
        system.start()
        trial = Trial(system, SEED, RATES)
        yield trial
        if trial.violations:
            print(f"The evidence is in {keep_evidence(trial)}")


@pytest.mark.parametrize("fault", [*one_of_each_kind(FAULTS), *QUICK], ids=lambda fault: fault.name)
def test_every_promise_holds_after(fault: Fault, trial: Trial) -> None:
    outcome = trial.put_through(fault)
    assert outcome.violations == ()
    assert outcome.repeats or not fault.repeats, "what the outbox still held was not published again"


def test_nothing_needs_a_person_afterwards(trial: Trial) -> None:
    assert trial.ask_doctor() == []
