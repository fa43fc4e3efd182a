"""`choreo chaos`: what the system promises, put to the test by breaking it."""

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
    list_them: Annotated[bool, typer.Option("--list", help="Name the faults and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the evidence also where all promises held.")
    ] = False,
) -> None:
    """Kill, stop and disconnect the parts of a real system under load, and judge what is left.

    The system is one of its own. It is put through every fault, one after another, which takes
    about four minutes; with `--half` through those by halves: a session that is silent, a row that
    is locked, a mail server that takes some mails and not others, a log that was cut, which takes
    about ten minutes. After each the load stops, everything has to be handled within 30 s from then,
    and topics, tables, mails and what the customers know have to keep every promise. Nobody may have
    said for 15 s that it is ready while it did not get on. Exits 1 if a promise was broken.
    """
    from choreo.chaos.faults.clean import FAULTS  # the fault programme is no business of the other verbs
    from choreo.chaos.faults.half import HALF_FAULTS
    from choreo.chaos.programme import run
    from choreo.chaos.screens import JsonScreen, TextScreen

    known = {fault.name: fault for fault in (*FAULTS, *HALF_FAULTS)}
    unknown = sorted(set(only or ()) - known.keys())
    if unknown:
        raise UsageError(f"There is no fault named {unknown[0]}: choreo chaos --list names them.")
    chosen = known.values() if list_them else HALF_FAULTS if half else FAULTS
    faults = [fault for name, fault in known.items() if name in only] if only else list(chosen)
    screen = JsonScreen() if as_json else TextScreen()
    if list_them:
        screen.list(faults)
        return
    with asked_to_stop():
        held = run(faults, runs, Random().randrange(10_000) if seed is None else seed, screen, keep=keep)
    if not held:
        raise typer.Exit(1)
