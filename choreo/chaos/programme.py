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
    require_services(CONSUMED)
    outcomes: list[Outcome] = []
    progress = _Remaining(total=runs * len(faults))
    try:
        for number in range(runs):
            screen.run(number + 1, runs, seed + number)
            for together in _systems(faults):
                outcomes += _one_system(together, seed + number, screen, progress, report, keep=keep)
    finally:
        progress.done()
    screen.totals(runs, outcomes)
    return not any(outcome.violations for outcome in outcomes)


def run_for(seconds: float, seed: int, screen: Screen, report: Report | None, *, keep: bool) -> bool:
    """Whether every promise was kept by system after system, each put through what chance decides.

    The last one ends with the first fault that begins too late. Raises as `run` does.
    """
    require_services(CONSUMED)
    outcomes: list[Outcome] = []
    progress = _Remaining(until=time.monotonic() + seconds)
    number = 0
    try:
        for number, system in enumerate(systems(Random(seed)), start=1):
            screen.run(number, None, seed + number)
            outcomes += _one_system(system, seed + number, screen, progress, report, keep=keep)
            if progress.is_over:
                break
    finally:
        progress.done()
        screen.totals(number, outcomes)
    return not any(outcome.violations for outcome in outcomes)


def _systems(faults: Sequence[Fault]) -> Iterator[System]:
    """Which of them share a system."""
    judged = [fault for fault in faults if fault.judged]
    for brokers in sorted({fault.brokers for fault in judged}):
        yield ("--brokers", str(brokers)), [fault for fault in judged if fault.brokers == brokers]
    yield from (((), [fault]) for fault in faults if not fault.judged)


def _one_system(
    what: System, seed: int, screen: Screen, progress: "_Remaining", report: Report | None, *, keep: bool
) -> list[Outcome]:
    """Ends early where a fault could not be put right: what follows would only show it again."""
    arguments, faults = what
    outcomes: list[Outcome] = []
    progress.stage("starting a system")
    with ThrowawaySystem((*UP, *arguments)) as system:
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
                if outcome.gave_up or progress.is_over:
                    break
            held = not trial.violations
            if services := unknown(trial.history):
                screen.unjudged(services)
        finally:
            progress.done()
            if report and outcomes:
                report.add(outcomes, trial.timeline())
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
    """Says which fault it is, and how long the rest takes: if all are like those before, or as asked."""

    def __init__(self, total: int | None = None, until: float | None = None) -> None:
        self._progress, self._total, self._until = Progress(), total, until
        self._begun, self._since = 0, time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def stage(self, what: str) -> None:
        self._progress.stage(what)

    def next(self, what: str) -> None:
        now = time.monotonic()
        if self._total is None:
            left = max(0.0, (self._until or now) - now)
        else:
            left = (now - self._since) / max(1, self._begun) * (self._total - self._begun)
        self._begun += 1
        which = f"{self._begun} of {self._total}" if self._total else f"{self._begun}"
        self.stage(f"{which}{f', about {left:.0f} s left' if left else ''}: {what}")

    def done(self) -> None:
        self._progress.done()
