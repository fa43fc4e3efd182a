"""`choreo bench`: what the system needs and what it achieves on this machine."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from choreo.operations.acting.throwaway import asked_to_stop


class Measurement(enum.StrEnum):
    STARTUP = "startup"
    REST = "rest"
    LATENCY = "latency"
    SUSTAINED = "sustained"
    OVERLOAD = "overload"
    WAITS = "waits"
    REPLAY = "replay"
    STYLES = "styles"
    HOSTILE = "hostile"


def bench(
    seconds: Annotated[
        int, typer.Option(min=1, max=600, help="How long the latency and the sustained load are measured.")
    ] = 20,
    only: Annotated[
        list[Measurement] | None,
        typer.Option(
            help="Measure this; may be given several times. Replay, styles and hostile are measured only so."
        ),
    ] = None,
    events: Annotated[
        int, typer.Option(min=4000, max=1_000_000, help="How long a log is replayed.")
    ] = 100_000,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Print ratios to an earlier run, which --json wrote there."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Measure start-up, memory, latency, sustained orders/s and overload on a system of its own.

    With --only hostile: what a customer notices while one stranger sends 20,000 headers, holds 5,000 idle
    connections, opens 2,000 streams, or logs in on 100 connections.

    With --only replay: make a log with a bit of everything, and verify, record and rebuild it.
    With --only styles: what an order takes and costs in each style, in turns, medians of three.

    The load comes from this machine too and is part of what is measured. Nothing is judged: quote the figures
    together with the machine they name.
    """
    from choreo.benchmarks.programme import TOGETHER, run  # no business of the other verbs

    with asked_to_stop():
        run(seconds, events, only or TOGETHER, earlier=compare, as_json=as_json)
