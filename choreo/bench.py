"""`choreo bench`: what the system needs and what it achieves on this machine."""

import enum
from typing import Annotated

import typer

from choreo.throwaway import asked_to_stop


class Measurement(enum.StrEnum):
    STARTUP = "startup"
    REST = "rest"
    LATENCY = "latency"
    SUSTAINED = "sustained"
    OVERLOAD = "overload"
    WAITS = "waits"


def bench(
    seconds: Annotated[
        int, typer.Option(min=1, max=600, help="How long the latency and the sustained load are measured.")
    ] = 20,
    only: Annotated[Measurement | None, typer.Option(help="Measure this alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Measure start-up, memory, latency, sustained orders/s and overload on a system of its own.

    The load comes from this machine too and is part of what is measured. Nothing is judged: quote the figures
    together with the machine they name.
    """
    from benchmarks.programme import run  # the load generator is no business of the other verbs

    with asked_to_stop():
        run(seconds, [only] if only else list(Measurement), as_json=as_json)
