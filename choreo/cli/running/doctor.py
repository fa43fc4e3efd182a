"""`choreo doctor`: whether all is well, and what a person should do where it is not."""

import asyncio
import json
from itertools import groupby
from operator import attrgetter
from typing import Annotated

import typer
from rich.markup import escape

from choreo.operations.reading.checkup import Finding, examine, finding_as_dict, together
from choreo.operations.reading.installation import find_installation
from choreo.terminal import Console


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Examine topics and services: what is held, read, unpublished, waiting, parked, granted.

    Looks only, and joins no consumer group. Exits 1 if something needs a person. What each line means and
    what to do about it is in docs/operations.md.
    """
    findings = together(asyncio.run(examine(find_installation())))
    sick = [finding for finding in findings if finding.needs_a_person]
    if as_json:
        print(json.dumps([finding_as_dict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
        print(f"\n{len(sick)} of {len(findings)} need a person." if sick else "\nAll is well.")
    if sick:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for about, found in groupby(findings, key=attrgetter("about")):
        console.print(f"[bold]{escape(about)}[/]")
        for finding in found:
            mark = "[red]![/]" if finding.needs_a_person else "[green]✓[/]"
            console.print(f"  {mark} {escape(finding.check):<34} {escape(finding.says)}")
            if finding.cure:
                console.print(f"    {'':<34} → {escape(finding.cure)}")
