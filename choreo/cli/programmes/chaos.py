"""`choreo chaos`: what the system promises, put to the test by breaking it."""

import shlex
import sys
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from choreo.errors import UsageError
from choreo.operations.acting.throwaway import asked_to_stop


def chaos(
    runs: Annotated[int, typer.Option(min=1, max=100, help="How often, each on a system of its own.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="What chance begins with; the second run has the next. Else any.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="The faults by halves instead.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This fault alone. May be given several times.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100, help="For so long, any faults, also several at once and on replicas."
        ),
    ] = None,
    kills: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="Until so many processes were killed, of several each: kills alone."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a page and a drawing of what came of it.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Name the faults and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the evidence also where all promises held.")
    ] = False,
) -> None:
    """Kill, stop and disconnect the parts of a real system under load, and judge what is left.

    The system is one of its own. It is put through every fault, one after another, which takes about
    four minutes; with `--half` through those by halves: a session that is silent, a row that is locked,
    a mail server that takes some mails and not others, a log that was cut, which takes about ten
    minutes; with `--hours` through any of them and through storms, in which many processes die one
    after the other, also where a service has several processes and Kafka three brokers, on system after
    system; with `--kills` on the latter alone, and only through what kills. After each fault the load
    stops, everything has to be handled within 30 s from then, and topics, tables, mails and what the
    customers know have to keep every promise. Nobody may have said for 15 s that it is ready while it
    did not get on. Exits 1 if a promise was broken.
    """
    from choreo.chaos.faults.clean import FAULTS  # the fault programme is no business of the other verbs
    from choreo.chaos.faults.half import HALF_FAULTS
    from choreo.chaos.programme import run, run_for
    from choreo.chaos.results.report import Report
    from choreo.chaos.results.screens import JsonScreen, TextScreen

    known = {fault.name: fault for fault in (*FAULTS, *HALF_FAULTS)}
    if (hours or kills) and (only or half or runs > 1):
        raise UsageError("With --hours and --kills chance decides: leave --runs, --half and --only away.")
    unknown = sorted(set(only or ()) - known.keys())
    if unknown:
        raise UsageError(f"There is no fault named {unknown[0]}: choreo chaos --list names them.")
    chosen = known.values() if list_them else HALF_FAULTS if half else FAULTS
    faults = [fault for name, fault in known.items() if name in only] if only else list(chosen)
    screen = JsonScreen() if as_json else TextScreen()
    if list_them:
        screen.list(faults)
        return
    seed = Random().randrange(10_000) if seed is None else seed
    written = Report(report, f"choreo {shlex.join(sys.argv[1:])}") if report else None
    with asked_to_stop():
        if hours or kills:
            held = run_for(hours and hours * 3600, kills, seed, screen, written, keep=keep)
        else:
            held = run(faults, runs, seed, screen, written, keep=keep)
    if not held:
        raise typer.Exit(1)
