"""`choreo simulate`: the real kernels on a database and a log in memory, one order of events a seed."""

import dataclasses
import re
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from choreo.progress import telling

if TYPE_CHECKING:
    from choreo.simulation.programme import Summary
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
    awaits: Annotated[
        bool, typer.Option("--awaits", help="Print what was not met: awaits, pairs of faults, locks.")
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
    from choreo.simulation.programme import (
        Summary,  # what it needs is no business of the other verbs
        processes_for,
        simulate_beside,
    )
    from choreo.simulation.programme import simulate as simulated
    from choreo.simulation.shrinking import shrunk
    from choreo.simulation.world import play

    first = Random().randrange(1_000_000_000) if seed is None else seed
    if trace:
        outcome = play(first, trace=True)
        print(outcome.plan, *outcome.told, sep="\n")
        summary = Summary(1, outcome.steps, outcome.faults, broken=[outcome] if outcome.violations else [])
    else:
        seeds = range(first, first + schedules)
        beside = processes or processes_for(schedules)
        with telling() as tell:
            played = partial(simulate_beside, seeds, beside) if beside > 1 else partial(simulated, seeds)
            summary = played(tell=lambda done: tell("simulating", done, schedules))
    _print(summary, first, as_json)
    if awaits:
        _print_awaits(summary)
    if summary.broken and not trace and (keep or not as_json):
        smallest = shrunk(summary.broken[0])
        if keep:
            told = {"seed": smallest.seed, "plan": dataclasses.asdict(smallest.plan)}
            keep.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        if not as_json:
            _tell(smallest)
    if summary.broken:
        raise typer.Exit(1)


def _tell(smallest: "Outcome") -> None:
    """The story of the smallest world that breaks the promise: what befell it, and who was where."""
    from choreo.simulation.world import play

    outcome = play(smallest.seed, trace=True, plan=smallest.plan)
    print(f"The smallest world that breaks it too is seed {outcome.seed} with {outcome.plan}:")
    print(*(line for line in outcome.told if not _EVERYDAY.search(line)), sep="\n")
    print(*(f"{violation.promise}: {violation.text}" for violation in outcome.violations[:3]), sep="\n")


_EVERYDAY = re.compile(r" (\w+ database|broker) +[\w. ]+$")
"""Statements and requests, of which there are thousands."""


def _print_awaits(summary: "Summary") -> None:
    from choreo.simulation.awaits import all_awaits
    from choreo.simulation.plan import FAULTS

    there = all_awaits()
    reached = summary.killed_at.intersection(there)
    print(f"Processes were killed at {len(reached)} of {len(there)} awaits. Not at:")
    print(*(f"  {place}" for place in there if place not in summary.killed_at), sep="\n")
    pairs = list(combinations(sorted(FAULTS), 2))
    print(f"{len(summary.coincided)} of {len(pairs)} pairs of faults befell one world. Not together were:")
    print(*(f"  {one}, {other}" for one, other in pairs if (one, other) not in summary.coincided), sep="\n")
    print("Transactions waited for each other in so many worlds at:")
    print(
        *(f"  {number:6} {one}, for {other}" for (one, other), number in sorted(summary.met.items())),
        sep="\n",
    )


def _print(summary: "Summary", first: int, as_json: bool) -> None:
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
