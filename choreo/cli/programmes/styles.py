"""`choreo styles`: the ways in which the shop can be wired, and what becomes of an order in each."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from choreo.chassis.installed import require_services
from choreo.demo.client import SHOP
from choreo.operations.acting.throwaway import asked_to_stop
from choreo.progress import Progress
from choreo.styles.composition import STYLES, require_style
from choreo.styles.size import PARTS, lines_of
from choreo.terminal import Console


def styles(
    outages: Annotated[
        bool, typer.Option("--outages", help="Stop each part in each style, and look; takes some minutes.")
    ] = False,
    style: Annotated[str | None, typer.Option(metavar="|".join(STYLES), help="This one alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the styles and how much code wires each; with --outages, what an order does while a part is away.

    Each style is started for the purpose, and gone afterwards. Exits 1 if an order is paid or told twice.
    """
    if style is not None:
        require_style(style)
    wanted = [style] if style else list(STYLES)
    if not outages:
        _print_sizes(wanted, as_json)
        return
    require_services(SHOP)
    with asked_to_stop():
        once = _show_outages(wanted, as_json)
    if not once:
        raise typer.Exit(1)


def _print_sizes(wanted: list[str], as_json: bool) -> None:
    sizes = {name: {"parts": PARTS[name], "lines": lines_of(name)} for name in wanted}
    if as_json:
        print(json.dumps(sizes, indent=2))
        return
    table = Table("style", "wired by", "lines")
    for name, size in sizes.items():
        table.add_row(name, ", ".join(PARTS[name]), str(size["lines"]))
    Console(highlight=False, soft_wrap=True).print(table)


def _show_outages(wanted: list[str], as_json: bool) -> bool:
    """Whether every order was paid and told once."""
    from choreo.benchmarks.styles.outages import OUTAGES, look  # the load generator is nobody else's business

    progress = Progress()
    try:
        found = {name: asyncio.run(look(name, progress)) for name in wanted}
    finally:
        progress.done()
    if as_json:
        told = {name: {outage: asdict(seen) for outage, seen in rows.items()} for name, rows in found.items()}
        print(json.dumps(told, indent=2))
    else:
        table = Table("while", *wanted, show_lines=True)
        for outage in OUTAGES:
            rows = [found[name].get(outage) for name in wanted]
            table.add_row(outage, *(str(seen or "has none") for seen in rows))
        Console(highlight=False, soft_wrap=True).print(table)
    return all(seen.was_done_once for rows in found.values() for seen in rows.values())
