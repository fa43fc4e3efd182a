"""`choreo run`: one service of the running system in this terminal."""

import signal
from threading import Event
from typing import Annotated, NoReturn

import typer

from choreo.chassis.registry import service_names
from choreo.errors import UsageError
from choreo.operations.acting.by_hand import code_of, left_by_the_system, run_left
from choreo.operations.reading.installation import read_settings, running_system


def run(
    service: Annotated[str, typer.Argument(help="Which one.")],
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Begin it anew when a file of its code, of events or choreo is saved."),
    ] = False,
) -> None:
    """Run a service of the running system in this terminal, until Ctrl-C, as one process.

    The system stops its own processes of it first, and starts them again afterwards. Who connects while it is
    begun anew waits, and gets the new code's answer.
    """
    if service not in service_names():
        raise UsageError(f"{service} is no service: there are {', '.join(service_names())}.")
    settings, ended, told = read_settings(), 0, Event()

    def interrupted(*_: object) -> NoReturn:
        told.set()  # Python drops what is raised while it finalises something
        raise KeyboardInterrupt

    def goes_on() -> bool:
        return not told.is_set() and running_system(settings) is not None

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        with left_by_the_system(settings, service) as left:
            print(f"{service} is this terminal's; Ctrl-C gives it back.", flush=True)
            ended = run_left(left, goes_on, _say, code_of(service) if reload else ())
    except KeyboardInterrupt:
        pass
    print(f"{service} is given back.")
    raise typer.Exit(ended)


def _say(what: str) -> None:
    print(f"choreo: {what}", flush=True)
