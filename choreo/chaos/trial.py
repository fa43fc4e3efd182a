"""One system, put through one fault after another under load, and judged by its whole history after each."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from choreo.chaos import evidence
from choreo.chaos.drain import drain
from choreo.chaos.faults.fault import RECOVERY_TIMEOUT_SECONDS, Fault, NotInTime
from choreo.chaos.history import History, Request
from choreo.chaos.judge import Violation, judge, repeats
from choreo.chaos.load import Load, Rates
from choreo.chaos.watch import Watch
from choreo.embedded.part import AnswersHttp
from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import ThrowawaySystem

_BEFORE, _AFTERWARDS = 25, 15
"""So many requests are answered before a fault strikes, and after everything is ready again."""
_WARM_UP = 150
"""So many before anything befalls a system that has just begun."""
_REQUESTS_WITHIN = 60.0
_LOOK_AGAIN = 0.05


@dataclass(frozen=True)
class Outcome:
    """Of one fault. What is counted is what came about during it."""

    fault: Fault
    requests: Mapping[str, int]
    """By what their customers know: ok, failed, unknown."""
    attempts: int
    """How often these were sent."""
    events: int
    repeats: int
    """Records that had been on their topic before."""
    repeated_mails: int
    recovery: float
    """Seconds from when nothing was in the way any more until everything was handled."""
    violations: tuple[Violation, ...]
    gave_up: bool
    """The fault could not be put right: what follows would only show it again."""
    struck_at: float
    """Seconds since the epoch, when its load began."""


@dataclass(frozen=True)
class Timeline:
    """Of one system. Times are seconds since the epoch."""

    answered: Sequence[float]
    """When each request came to its end."""
    lag: Sequence[tuple[float, int]]
    """How many records somebody had still to read, about once a second."""


class _LoadDropped(Exception):
    """Nobody waits for the answers to what customers ask just now: there may never be any."""


class Trial:
    def __init__(self, system: ThrowawaySystem, seed: int, rates: Rates | None = None) -> None:
        """The system runs already, and nobody else uses it."""
        self.system, self.seed = system, seed
        self.journal = system.home.parent / "requests.ndjson"
        self.history = History([], {}, {}, [])
        """As it was last judged."""
        urls = {service: system.run_file["urls"][service] for service in system.run_file["ports"]}
        self._load = Load(urls, seed, self.journal, rates)
        self._repeats = repeats(self.history)
        self._watch = Watch(lambda: system.run_file)
        self._chance = Random(seed)
        self.violations: set[Violation] = set()
        """All that were found so far."""

    def warm_up(self) -> None:
        """Customers come, and nothing befalls them. What Java has just started is slow until it has compiled
        itself, and so would be whatever came back beside it. Raises `NotInTime`.
        """
        with self._load.running():
            self._requests_end(_WARM_UP)

    def put_through(self, fault: Fault) -> Outcome:
        """Strikes under load, lets everything come to rest, and judges all there is since the beginning."""
        before, repeats_before, struck_at = self.history, self._repeats, time.time()
        undone: list[str] = []
        with self._watch.running():
            since, not_in_time = self._strike(fault)
            if fault.judged:
                # What was asked for since then is handled as fast as it came: its time counts from the last.
                undone = drain(self.system.run_file, time.monotonic() + RECOVERY_TIMEOUT_SECONDS)
        recovery = time.monotonic() - since
        unread = self._collect()
        self._repeats = repeats(self.history)
        requests = self.history.requests[len(before.requests) :]
        found = [Violation("I7", told) for told in (*not_in_time, *undone, *unread)]
        found += [Violation("ready", told) for told in self._watch.told]
        if fault.judged:
            found += [*_refusals(requests), *judge(self.history)]
        new = tuple(violation for violation in found if violation not in self.violations)
        self.violations.update(new)
        return Outcome(
            fault,
            requests=Counter(request.outcome for request in requests),
            attempts=sum(request.sent for request in requests),
            events=len(self.history.records) - len(before.records),
            repeats=self._repeats.records - repeats_before.records,
            repeated_mails=self._repeats.mails - repeats_before.mails,
            recovery=recovery,
            violations=new,
            gave_up=bool(not_in_time or unread),
            struck_at=struck_at,
        )

    def timeline(self) -> Timeline:
        answered = [request.returned for request in self._load.requests if request.returned]
        return Timeline(answered, self._watch.lag)

    def ask_doctor(self) -> list[Violation]:
        """What needs a person now that everything is over: nothing should."""
        command = [sys.executable, "-m", "choreo.cli.main", "doctor"]
        doctor = subprocess.run(command, env=self.system.environment, capture_output=True, text=True)
        found = [Violation("doctor", doctor.stdout + doctor.stderr)] if doctor.returncode else []
        self.violations.update(found)
        return found

    def _strike(self, fault: Fault) -> tuple[float, list[str]]:
        """Since when (monotonic) nothing is in the way any more, and what did not happen in time."""
        since = time.monotonic()
        try:
            with self._load.running():
                self._requests_end(_BEFORE)
                since = fault.strike(self.system, self._chance)
                if not fault.judged:
                    raise _LoadDropped
                self._services_are_ready(since + RECOVERY_TIMEOUT_SECONDS)
                self._requests_end(_AFTERWARDS)
        except _LoadDropped:
            pass
        except Unavailable as error:
            return since, [str(error)]
        return since, []

    def _collect(self) -> list[str]:
        """Why the evidence cannot be read; otherwise it is the history from now on."""
        try:
            self.history = evidence.collect(self.system.run_file, tuple(self._load.requests))
        except evidence.UNREADABLE as error:
            return [f"the evidence cannot be read: {error}"]
        return []

    def _requests_end(self, count: int) -> None:
        """Returns when so many more were answered or given up."""
        enough = self._load.ended + count
        deadline = time.monotonic() + _REQUESTS_WITHIN
        while self._load.ended < enough:
            if time.monotonic() > deadline:
                raise NotInTime(f"not even {count} requests came to an end in {_REQUESTS_WITHIN:.0f} s")
            time.sleep(_LOOK_AGAIN)

    def _services_are_ready(self, deadline: float) -> None:
        for service, ports in self.system.run_file["own_ports"].items():
            for ready in [AnswersHttp(port, "/health/ready") for port in ports]:
                while not ready():
                    if time.monotonic() > deadline:
                        raise NotInTime(f"{service} was not ready within {RECOVERY_TIMEOUT_SECONDS:.0f} s")
                    time.sleep(_LOOK_AGAIN)


def _refusals(requests: Iterable[Request]) -> Iterator[Violation]:
    """Nothing that is asked for here may be refused; but an account may be late, an order over, and another
    service have too little of something.
    """
    for request in requests:
        over = request.kind in ("cancel", "other") and request.status == 409
        if request.outcome == "failed" and request.status != 404 and not over:
            told = f"{request.kind} {request.marker} was answered {request.status}"
            yield Violation("contract", f"{told}, and there was nothing wrong with it")
