"""The reliability programme: every fault, one after another, on a real system under load."""

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from choreo.chaos import evidence
from choreo.chaos.faults import Fault
from choreo.chaos.screens import Screen
from choreo.chaos.trial import Outcome, Trial
from choreo.embedded.home import Home
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import read_settings
from choreo.progress import Progress

UP = ("choreo.chaos.up",)
"""What runs a system whose services have failpoints."""


def run(faults: Sequence[Fault], runs: int, seed: int, screen: Screen, *, keep: bool) -> bool:
    """Whether every promise was kept. Each run has a system, and a seed, of its own.

    Raises `Unavailable` where a system cannot be started at all.
    """
    outcomes: list[Outcome] = []
    progress = _Remaining(runs * len(faults))
    try:
        for number in range(runs):
            screen.run(number + 1, runs, seed + number)
            outcomes += _one_run(faults, seed + number, screen, progress, keep=keep)
    finally:
        progress.done()
    screen.totals(runs, outcomes)
    return not any(outcome.violations for outcome in outcomes)


def _one_run(
    faults: Sequence[Fault], seed: int, screen: Screen, progress: "_Remaining", *, keep: bool
) -> list[Outcome]:
    """Ends early where a fault could not be put right: what follows would only show it again."""
    outcomes: list[Outcome] = []
    progress.stage("starting a system")
    with ThrowawaySystem(UP) as system:
        system.start()
        trial = Trial(system, seed)
        held = False
        try:
            for fault in faults:
                progress.next(fault.sentence)
                outcomes.append(trial.put_through(fault))
                progress.done()
                screen.outcome(outcomes[-1])
                if outcomes[-1].gave_up:
                    break
            held = not trial.violations
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
