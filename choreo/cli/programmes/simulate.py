"""`choreo simulate`: the real kernels on a database and a log in memory, one order of events a seed."""

import dataclasses
from random import Random
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from choreo.progress import telling

if TYPE_CHECKING:
    from choreo.simulation.programme import Summary


def simulate(
    schedules: Annotated[int, typer.Option(min=1, help="How many worlds, each from the next seed.")] = 1000,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first. Else any.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Play that seed alone, and print all that happens.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play small worlds of services, customers and faults, each from a seed, and judge what is left.

    Kernel, deciders and hand-over are the real ones; database, Kafka, relay, mailer and customers are models
    in memory, in one thread and in simulated time. The same seed plays the same world. Ends with the first
    seed that breaks a promise, tells it, and exits 1. docs/simulation.md says what it can see and what not.
    """
    from choreo.simulation.programme import Summary  # what it needs is no business of the other verbs
    from choreo.simulation.programme import simulate as simulated
    from choreo.simulation.world import play

    first = Random().randrange(1_000_000_000) if seed is None else seed
    if trace:
        outcome = play(first, trace=True)
        print(outcome.plan, *outcome.told, sep="\n")
        summary = Summary(1, outcome.steps, outcome.faults, broken=[outcome] if outcome.violations else [])
    else:
        with telling() as tell:
            summary = simulated(
                range(first, first + schedules), tell=lambda done: tell("simulating", done, schedules)
            )
    _print(summary, first, as_json)
    if summary.broken:
        raise typer.Exit(1)


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
