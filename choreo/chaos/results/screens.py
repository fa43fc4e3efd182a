"""How the programme is shown: to people as text, to programs as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.markup import escape

from choreo.chaos.faults.fault import Fault
from choreo.chaos.trial import Outcome
from choreo.terminal import Console

_MOST_TOLD = 10
_OUTCOMES = ("ok", "failed", "unknown")


class JsonScreen:
    """One JSON object per line; `kind` says what it is about."""

    def list(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._print("fault", name=fault.name, says=fault.sentence)

    def run(self, number: int, runs: int | None, seed: int) -> None:
        self._print("run", number=number, of=runs, seed=seed)

    def outcome(self, outcome: Outcome) -> None:
        self._print("fault", name=outcome.fault.name, says=outcome.fault.sentence, **figures([outcome]))

    def unjudged(self, services: Sequence[str]) -> None:
        self._print("unjudged", services=services)

    def kept(self, directory: Path) -> None:
        self._print("evidence", directory=str(directory))

    def totals(self, runs: int, outcomes: Sequence[Outcome]) -> None:
        self._print("totals", runs=runs, **figures(outcomes))

    def _print(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, **facts}), flush=True)


class TextScreen:
    """For people: in colour on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def list(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._console.print(f"[bold]{fault.name:<31}[/] {fault.sentence}")

    def run(self, number: int, runs: int | None, seed: int) -> None:
        self._console.print(f"\n[bold]Run {number}{f' of {runs}' if runs else ''}, seed {seed}[/]")

    def outcome(self, outcome: Outcome) -> None:
        told = figures([outcome])
        requests = " ".join(f"{told['requests'][name]:>3} {name}" for name in _OUTCOMES)
        verdict = "[red]BROKEN[/]" if outcome.violations else "[green]holds[/]"
        self._console.print(
            f"{outcome.fault.name:<31} {requests}  {outcome.events:>4} events  "
            f"handled after {outcome.recovery:>4.1f} s  {verdict}"
        )
        for violation in outcome.violations[:_MOST_TOLD]:
            self._console.print(f"  [red]{violation.promise}[/] {escape(violation.text)}")
        if len(outcome.violations) > _MOST_TOLD:
            self._console.print(f"  and {len(outcome.violations) - _MOST_TOLD} more")

    def unjudged(self, services: Sequence[str]) -> None:
        self._console.print(
            f"[bold red]Not judged: {', '.join(services)}.[/] The judge has its own knowledge, "
            "and none of these: see choreo/chaos/judging/."
        )

    def kept(self, directory: Path) -> None:
        self._console.print(f"The evidence is in {escape(str(directory))}")

    def totals(self, runs: int, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        told = figures(outcomes)
        requests = ", ".join(f"{told['requests'][name]} {name}" for name in _OUTCOMES)
        for line in (
            f"{len(outcomes)} faults in {runs} runs: {told['kills']} kills, {told['stops']} stops",
            f"requests: {requests}, sent {told['attempts']} times",
            f"events: {told['events']}, and {told['repeats']} of them again; "
            f"{told['repeated_mails']} mails again",
            f"handled: after {told['recovery_median']:.1f} s (median), "
            f"{told['recovery_worst']:.1f} s (worst)",
        ):
            self._console.print(line)
        broken = told["violations"]
        self._console.print(
            f"[bold red]{len(broken)} breaches of promises.[/]"
            if broken
            else "[bold green]All promises held.[/]"
        )


Screen = JsonScreen | TextScreen


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    requests = sum((Counter(outcome.requests) for outcome in outcomes), Counter[str]())
    recoveries = [outcome.recovery for outcome in outcomes]
    return {
        "faults": len(outcomes),
        "kills": sum(outcome.fault.kills for outcome in outcomes),
        "stops": sum(outcome.fault.stops for outcome in outcomes),
        "requests": {name: requests[name] for name in _OUTCOMES},
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "events": sum(outcome.events for outcome in outcomes),
        "repeats": sum(outcome.repeats for outcome in outcomes),
        "repeated_mails": sum(outcome.repeated_mails for outcome in outcomes),
        "recovery_median": round(median(recoveries), 2),
        "recovery_worst": round(max(recoveries), 2),
        "violations": [
            {"fault": outcome.fault.name, "promise": violation.promise, "says": violation.text}
            for outcome in outcomes
            for violation in outcome.violations
        ],
    }
