"""`choreo bench`: what the system needs and what it achieves on this machine."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from choreo.chassis.installed import require_services
from choreo.demo.client import SHOP
from choreo.errors import UsageError
from choreo.operations.acting.throwaway import asked_to_stop


class Measurement(enum.StrEnum):
    STARTUP = "startup"
    REST = "rest"
    LATENCY = "latency"
    SUSTAINED = "sustained"
    RATES = "rates"
    CAPACITY = "capacity"
    OVERLOAD = "overload"
    RECOVERY = "recovery"
    WAITS = "waits"
    REPLAY = "replay"
    KERNEL = "kernel"
    CONSUMER = "consumer"
    STYLES = "styles"
    HOSTILE = "hostile"
    CONSOLE = "console"
    AGE = "age"


def bench(
    seconds: Annotated[
        int, typer.Option(min=1, max=600, help="How long latency, sustained load and each rate are measured.")
    ] = 20,
    only: Annotated[
        list[Measurement] | None,
        typer.Option(help="Measure this; may be given several times."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Measure the others, too, that take longer.")
    ] = False,
    events: Annotated[
        int, typer.Option(min=4000, max=1_000_000, help="How long a log is replayed.")
    ] = 100_000,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            min=1,
            max=20_000,
            metavar="ORDERS/S",
            help="Send `rates` so many; with the most begins `capacity`, with the least runs `recovery`.",
        ),
    ] = None,
    accounts: Annotated[
        int, typer.Option(min=1000, max=10_000_000, help="How many an old system of `age` has more.")
    ] = 1_000_000,
    journal_rows: Annotated[
        int, typer.Option(min=10_000, max=100_000_000, help="How many it has more, of all services.")
    ] = 10_000_000,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw delay over load there, as SVG.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Draw a flame graph of each service under load there."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Print ratios to an earlier run, which --json wrote there."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write the pages in docs/ with these figures.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Measure start-up, memory, latency, sustained orders/s, delay over load, what is too much, and recovery.

    With --only hostile: what a customer notices while one stranger sends 20,000 headers, holds 5,000 idle
    connections, opens 2,000 streams, or logs in on 100 connections.

    With --only kernel and --only consumer: what a transaction and a record cost by themselves.
    With --only replay: make a log with a bit of everything, and verify, record and rebuild it.
    With --only age: what an order costs in a shop with a million accounts and ten million journal rows more
    than another that runs beside it, in turn. It takes 15 GB of disk and a quarter of an hour.

    With --only styles: what an order takes and costs in each style, in turns, medians of three.
    With --only console: what it costs the services that somebody has the console open, turn by turn.

    The load comes from this machine too and is part of what is measured: quote the figures together with the
    machine they name. Afterwards the judge of `choreo chaos` looks at everything. A run in which a promise
    was broken is void, and exits 1.
    """
    from choreo.benchmarks.programme import (
        BY_THEMSELVES,
        TOGETHER,
        Wanted,
        run,
    )  # no business of the other verbs

    if everything and only:
        raise UsageError("Name measurements with --only, or take --all: not both.")
    require_services(SHOP)
    with asked_to_stop():
        names = (*TOGETHER, *BY_THEMSELVES) if everything else only or TOGETHER
        wanted = Wanted(names, seconds, events, rate or (), accounts, journal_rows, profile)
        if not run(wanted, drawing=plot, earlier=compare, as_json=as_json, kept=keep):
            raise typer.Exit(1)
