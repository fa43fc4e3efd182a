"""The reliability programme: fault after fault, on real systems under load."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from choreo.chaos import evidence
from choreo.chaos.faults.fault import Fault
from choreo.chaos.faults.nemesis import System, systems
from choreo.chaos.judge import unknown
from choreo.chaos.judging.case import CONSUMED
from choreo.chaos.results.report import Report
from choreo.chaos.results.screens import Screen
from choreo.chaos.trial import Outcome, Trial
from choreo.chassis.installed import require_services
from choreo.embedded.home import Home
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.installation import read_settings
from choreo.progress import Progress

UP = ("choreo.chaos.up",)
"""What runs a system whose services have failpoints."""


def run(
    faults: Sequence[Fault], runs: int, seed: int, screen: Screen, report: Report | None, *, keep: bool
) -> bool:
    """Whether every promise was kept. Each run has systems, and a seed, of its own.

    Raises `Unavailable` where a system cannot be started at all, or what the judge knows is not installed.
    """
    programme = _Programme(screen, _Remaining(total=runs * len(faults)), report, keep)
    for number in range(runs):
        screen.run(number + 1, runs, seed + number)
        for system in _systems(faults):
            programme.put_through(system, seed + number)
    screen.totals(runs, programme.outcomes)
    return programme.held


def run_for(
    seconds: float | None, kills: int | None, seed: int, screen: Screen, report: Report | None, *, keep: bool
) -> bool:
    """Whether every promise was kept by system after system, each put through what chance decides. With
    `kills`, what kills.

    Nothing is begun any more when the time is over, or so many processes were killed. Raises as `run` does.
    """
    progress = _Remaining(kills=kills, until=time.monotonic() + seconds if seconds else None)
    programme = _Programme(screen, progress, report, keep)
    number = 0
    try:
        for number, system in enumerate(systems(Random(seed), only_kills=kills is not None), start=1):
            screen.run(number, None, seed + number)
            programme.put_through(system, seed + number)
            if progress.is_over:
                break
    finally:  # whoever breaks it off wants to know as well
        screen.totals(number, programme.outcomes)
    return programme.held


def _systems(faults: Sequence[Fault]) -> Iterator[System]:
    """Which of them share a system."""
    judged = [fault for fault in faults if fault.judged]
    for brokers in sorted({fault.brokers for fault in judged}):
        yield System(("--brokers", str(brokers)), [fault for fault in judged if fault.brokers == brokers])
    yield from (System((), [fault]) for fault in faults if not fault.judged)


class _Programme:
    def __init__(self, screen: Screen, progress: "_Remaining", report: Report | None, keep: bool) -> None:
        require_services(CONSUMED)
        self.outcomes: list[Outcome] = []
        self._screen, self._progress, self._report, self._keep = screen, progress, report, keep

    @property
    def held(self) -> bool:
        return not any(outcome.violations for outcome in self.outcomes)

    def put_through(self, what: System, seed: int) -> None:
        """Ends early where a fault could not be put right: what follows would only show it again."""
        arguments, faults, rates = what
        begun = len(self.outcomes)
        self._progress.stage("starting a system")
        with ThrowawaySystem((*UP, *arguments)) as system:
            system.start()
            trial = Trial(system, seed, rates)
            held = False
            try:
                trial.warm_up()
                for number, fault in enumerate(faults, start=1):
                    self._progress.next(fault)
                    outcome = trial.put_through(fault)
                    is_last = number == len(faults) or self._progress.is_over
                    if is_last and fault.judged:
                        outcome = replace(outcome, violations=(*outcome.violations, *trial.ask_doctor()))
                    self.outcomes.append(outcome)
                    self._progress.done()
                    self._screen.outcome(outcome)
                    if outcome.gave_up or is_last:
                        break
                held = not trial.violations
                if services := unknown(trial.history):
                    self._screen.unjudged(services)
            finally:
                self._progress.done()
                if self._report and self.outcomes[begun:]:
                    self._report.add(self.outcomes[begun:], trial.timeline())
                if self._keep or not held:
                    self._screen.kept(keep_evidence(trial))


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
    """Says which fault it is, and how long the rest takes: if all are like those before, or as asked."""

    def __init__(
        self, total: int | None = None, kills: int | None = None, until: float | None = None
    ) -> None:
        self._progress, self._until = Progress(), until
        self._begun, self._killed, self._since = 0, 0, time.monotonic()
        self._total, self._kills = total, kills

    @property
    def is_over(self) -> bool:
        if self._until is not None and time.monotonic() > self._until:
            return True
        return self._kills is not None and self._killed >= self._kills

    def stage(self, what: str) -> None:
        self._progress.stage(what)

    def next(self, fault: Fault) -> None:
        left = max(self._seconds_left(), default=0.0)
        self._begun += 1
        self._killed += fault.kills
        which = f"{self._begun} of {self._total}" if self._total else f"{self._begun}"
        killed = f", {self._killed} of {self._kills} kills" if self._kills else ""
        self.stage(f"{which}{killed}{f', about {left:.0f} s left' if left else ''}: {fault.sentence}")

    def _seconds_left(self) -> Iterator[float]:
        now = time.monotonic()
        if self._until is not None:
            yield max(0.0, self._until - now)
        for done, all_of_them in ((self._begun, self._total), (self._killed, self._kills)):
            if all_of_them is not None:
                yield (now - self._since) / max(1, done) * (all_of_them - done)

    def done(self) -> None:
        self._progress.done()
