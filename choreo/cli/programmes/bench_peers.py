"""`choreo bench-peers`: this shop beside other ways of doing the same, on this machine."""

from importlib.util import find_spec
from typing import Annotated

import typer

from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import asked_to_stop


def bench_peers(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure this one; may be given several times.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=25, help="How often each is measured, in turn.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Short runs: at most two minutes for each.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write docs/benchmarks.md with these figures.")
    ] = False,
) -> None:
    """Measure this shop and DBOS, Restate, FastStream, an outbox, Dramatiq and a monolith side by side.

    The same orders, tokens, load, Postgres and Kafka for all. Each is killed in the middle of every run, and
    what it lost or did twice is told. What a peer needs is fetched once and kept apart from the shop.
    """
    if find_spec("choreo.benchmarks.peers") is None:
        raise Unavailable("The peers are not part of an installed choreo: run this from a checkout.")
    from choreo.benchmarks.peers.programme import run  # what is measured is no business of the other verbs

    with asked_to_stop():
        run(only or [], runs, quick=quick, as_json=as_json, keep=keep)
