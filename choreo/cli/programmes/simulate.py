"""`choreo simulate`: the real kernels on a database and a log in memory, one order of events a seed."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from choreo.progress import telling

if TYPE_CHECKING:
    from choreo.simulation.results.summary import Summary
    from choreo.simulation.world import Outcome


def simulate(
    schedules: Annotated[int, typer.Option(min=1, help="How many worlds, each from the next seed.")] = 1000,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first. Else any.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="So many at once. Else one for each core.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Write seed and plan of the smallest broken world to this file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page to this file, and go on where it was broken off with the same code."),
    ] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Print all that was not reached, and which statements met.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Play that seed alone, and print all that happens.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play small worlds of services, customers and faults, each from a seed, and judge what is left.

    The services and all of their jobs are the real ones; database, Kafka and customers are models in memory,
    in one thread and in simulated time. The same seed plays the same world. Ends with the first seed that
    breaks a promise, makes its world as small as it can, tells what befell it, and exits 1.
    docs/simulation.md says what it can see and what not.
    """
    from choreo.simulation.results.report import Report  # what it needs is no business of the other verbs
    from choreo.simulation.results.shrinking import shrunk
    from choreo.simulation.results.summary import Summary
    from choreo.simulation.world import play

    first = Random().randrange(1_000_000_000) if seed is None else seed
    if trace:
        outcome = play(first, trace=True)
        print(outcome.plan, *outcome.told, sep="\n")
        summary = Summary()
        summary.count(outcome)
    elif report:
        page = Report(report, f"choreo {shlex.join(sys.argv[1:])}", schedules, seed, first)
        first, summary = page.first, page.total(_played(page.seeds, processes, page.keep_now_and_then))
        page.keep(summary)
    else:
        summary = _played(range(first, first + schedules), processes)
    _print(summary, first, as_json, coverage)
    if summary.broken and not trace and (keep or not as_json):
        smallest = shrunk(summary.broken[0])
        if keep:
            told = {"seed": smallest.seed, "plan": dataclasses.asdict(smallest.plan)}
            keep.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        if not as_json:
            _tell(smallest)
    if summary.broken:
        raise typer.Exit(1)


def _played(
    seeds: range, processes: int | None, keep: "Callable[[Summary], None]" = lambda done: None
) -> "Summary":
    from choreo.simulation.programme import processes_for, simulate, simulate_beside

    with telling() as tell:

        def told(done: "Summary") -> None:
            tell("simulating", done.schedules, len(seeds))
            keep(done)

        if (beside := processes or processes_for(len(seeds))) > 1:
            return simulate_beside(seeds, beside, tell=told)
        return simulate(seeds, tell=told)


def _tell(smallest: "Outcome") -> None:
    """The story of the smallest world that breaks the promise: what befell it, and who was where."""
    from choreo.simulation.world import play

    outcome = play(smallest.seed, trace=True, plan=smallest.plan)
    print(f"The smallest world that breaks it too is seed {outcome.seed} with {outcome.plan}:")
    print(*(line for line in outcome.told if not _EVERYDAY.search(line)), sep="\n")
    print(*(f"{violation.promise}: {violation.text}" for violation in outcome.violations[:3]), sep="\n")


_NAMED, _ALL = 3, 1_000
"""So many of what was not reached are named in a line."""
_EVERYDAY = re.compile(r" (\w+ database|broker) +[\w. ]+$")
"""Statements and requests, of which there are thousands."""


def _print(summary: "Summary", first: int, as_json: bool, coverage: bool) -> None:
    broken = [
        {"seed": outcome.seed, "violations": [dataclasses.asdict(one) for one in outcome.violations]}
        for outcome in summary.broken
    ]
    if as_json:
        figures = {
            "seed": first,
            "schedules": summary.schedules,
            "steps": summary.steps,
            "faults": summary.faults,
            "schedules_per_second": round(summary.schedules_per_second, 1),
            "steps_per_second": round(summary.steps_per_second),
            "broken": broken,
            "killed_at": summary.killed_at,
            "faults_met": summary.kinds,
            "missed": {reached.name: reached.missed for reached in summary.coverage()},
        }
        print(orjson.dumps(figures).decode())
        return
    for outcome in summary.broken:
        print(f"Seed {outcome.seed} broke a promise, with {', '.join(outcome.plan.faults)}:")
        for violation in outcome.violations:
            print(f"  {violation.promise}: {violation.text}")
        print(f"See it again with: choreo simulate --seed {outcome.seed} --trace")
    print(
        f"{summary.schedules} schedules from seed {first} on, {summary.steps} steps, "
        f"{summary.faults} faults: {len(summary.broken)} broke a promise. "
        f"{summary.schedules_per_second:.1f} schedules/s, "
        f"{summary.steps_per_second:.0f} steps/s."
    )
    for reached in summary.coverage():
        print(reached.line(_ALL if coverage else _NAMED))
    if coverage:
        print("Statements that waited for another transaction, and its last one, in so many worlds:")
        for (waited, other), worlds in sorted(summary.met.items()):
            print(f"  {worlds:6} {waited}, for {other}")
