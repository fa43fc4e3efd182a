"""The reliability programme: fault after fault, on real systems under load."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from choreo.chaos import evidence
from choreo.chaos.faults.fault import Fault
from choreo.chaos.judge import unknown
from choreo.chaos.judging.case import CONSUMED
from choreo.chaos.screens import Screen
from choreo.chaos.trial import Outcome, Trial
from choreo.chassis.installed import require_services
from choreo.embedded.home import Home
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import read_settings
from choreo.progress import Progress

UP = ("choreo.chaos.up",)
"""What runs a system whose services have failpoints."""
_THREE_BROKERS = ("choreo.cli.main", "up", "--json", "--brokers", "3")


def run(faults: Sequence[Fault], runs: int, seed: int, screen: Screen, *, keep: bool) -> bool:
    """Whether every promise was kept. Each run has systems, and a seed, of its own.

    Raises `Unavailable` where a system cannot be started at all, or what the judge knows is not installed.
    """
    require_services(CONSUMED)
    outcomes: list[Outcome] = []
    progress = _Remaining(runs * len(faults))
    try:
        for number in range(runs):
            screen.run(number + 1, runs, seed + number)
            for together in _systems(faults):
                outcomes += _one_system(together, seed + number, screen, progress, keep=keep)
    finally:
        progress.done()
    screen.totals(runs, outcomes)
    return not any(outcome.violations for outcome in outcomes)


def _systems(faults: Sequence[Fault]) -> Iterator[Sequence[Fault]]:
    """Which of them share a system."""
    judged = [fault for fault in faults if fault.judged]
    for brokers in sorted({fault.brokers for fault in judged}):
        yield [fault for fault in judged if fault.brokers == brokers]
    yield from ([fault] for fault in faults if not fault.judged)


def _one_system(
    faults: Sequence[Fault], seed: int, screen: Screen, progress: "_Remaining", *, keep: bool
) -> list[Outcome]:
    """Ends early where a fault could not be put right: what follows would only show it again."""
    outcomes: list[Outcome] = []
    progress.stage("starting a system")
    with ThrowawaySystem(UP if faults[0].brokers == 1 else _THREE_BROKERS) as system:
        system.start()
        trial = Trial(system, seed)
        held = False
        try:
            for fault in faults:
                progress.next(fault.sentence)
                outcome = trial.put_through(fault)
                if fault is faults[-1] and fault.judged:
                    outcome = replace(outcome, violations=(*outcome.violations, *trial.ask_doctor()))
                outcomes.append(outcome)
                progress.done()
                screen.outcome(outcome)
                if outcome.gave_up:
                    break
            held = not trial.violations
            if services := unknown(trial.history):
                screen.unjudged(services)
        finally:
            progress.done()
            if keep or not held:
                screen.kept(keep_evidence(trial))
    return outcomes


def keep_evidence(trial: Trial) -> Path:
    """A directory with the customers' journal, what everybody logged, and what was judged last."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    directory = Home(read_settings()).path / "chaos" / f"{now}-seed-{trial.seed}"
    directory.mkdir(parents=True)
    for file in (trial.journal, trial.system.log):
        shutil.copy(file, directory)
    shutil.copytree(trial.system.home / "logs", directory / "logs")
    evidence.keep(trial.history, directory)
    return directory


class _Remaining:
    """Says which fault it is, and how long all that remain will take if they are like those before."""

    def __init__(self, total: int) -> None:
        self._progress, self._total = Progress(), total
        self._begun, self._since = 0, time.monotonic()

    def stage(self, what: str) -> None:
        self._progress.stage(what)

    def next(self, what: str) -> None:
        passed = time.monotonic() - self._since
        left = (
            f", about {passed / self._begun * (self._total - self._begun):.0f} s left" if self._begun else ""
        )
        self._begun += 1
        self.stage(f"{self._begun} of {self._total}{left}: {what}")

    def done(self) -> None:
        self._progress.done()
