"""`choreo verify --closed-loop`: what would have come of the recorded requests, and how it is told."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from choreo.chassis.registry import services
from choreo.chassis.settings import SERVICES
from choreo.progress import telling
from choreo.replay.sources.records import Source
from choreo.replay.verify.closed_loop import closed_loop
from choreo.replay.verify.findings import Allowance, Finding, Report
from choreo.replay.verify.second_run import verified_again
from choreo.replay.verify.simulation import Difference

_SHOWN = 10
"""Origins, and of each so many of the differences that come from it."""
_OUTCOMES = ("users", "accounts", "orders", "notifications")


async def what_if(
    source: Source, *, allowances: Sequence[Allowance] = (), preload: Sequence[str] = ()
) -> Report:
    """Closes the loop here and in a second process, which first calls `preload`, as module:function."""
    report = Report()
    if lacks := _lacks(source):
        report.findings = [Finding("incomplete", "", why) for why in lacks]
        return report
    since = time.monotonic()
    with telling() as tell:
        async with verified_again(source, SERVICES, 1.0, preload, in_closed_loop=True) as again:
            tally = await closed_loop(source, services(source.cut.settings), tell)
            report.seconds = time.monotonic() - since
            report.findings = tally.findings
            report.compare(await again)
    report.counts = dict(tally.counts)
    report.allow(allowances)
    return report


def _lacks(source: Source) -> list[str]:
    """Why there is no closing the loop."""
    missing = [name for name in SERVICES if name not in source.cut.services]
    lacks = [f"the journal of {name} is not recorded: a closed loop needs those of all" for name in missing]
    if source.cut.reduced:
        lacks.append("inputs were left out of this recording: a closed loop needs all that happened to a key")
    return lacks


def print_what_if(report: Report, verdict: str, file: Path | None, *, as_json: bool) -> None:
    """Each divergence with what follows from it, and then how much that is of all."""
    if as_json:
        print(json.dumps(_told(report, verdict, file), indent=2, default=str))
        return
    for number, (origin, found) in enumerate(groupby(report.findings, key=_origin)):
        if number == _SHOWN:
            print("... and more: --json prints all")
            break
        first, *others = found
        _print(first, file)
        for finding in others[:_SHOWN]:
            _print(finding, file, follows=bool(origin[1]))
        if len(others) > _SHOWN:
            print(f"  ... and {len(others) - _SHOWN} more: --json prints all")
    for finding in report.unstable[:_SHOWN]:
        print(f"{finding.service}: not deterministic: {finding.says} {finding.handler}".rstrip())
    for finding, allowance in report.allowed:
        print(f"{finding.service}: allowed ({allowance.reason}): {finding.says}")
    for idle in report.idle:
        print(f"nothing matches the allowed change: {idle.reason}")
    counts = Counter(report.counts)
    print(f"{verdict}: {counts['inputs']} inputs, {counts['keys']} keys in {report.seconds:.1f} s")
    if counts["keys"]:
        gone, other, new = (counts[f"facts {what}"] for what in ("gone", "other", "new"))
        print(f"  {'facts':<14}{counts['facts']:>8}  {gone} no longer decided, {other} other, {new} new")
        for what in _OUTCOMES:
            print(f"  {what:<14}{counts[what]:>8}  {counts[f'{what} otherwise']} otherwise")


def _origin(finding: Finding) -> tuple[str, str]:
    origin = finding.origin if isinstance(finding, Difference) else None
    return (origin["service"], origin["event"]) if origin else ("", "")


def _print(finding: Finding, file: Path | None, *, follows: bool = False) -> None:
    indent = "  " if follows else ""
    kind = "incomplete: " if finding.kind == "incomplete" else ""
    print(f"{'  so in ' if follows else ''}{finding.service or 'stream'}: {kind}{finding.says}")
    for name in () if follows else ("handler", "at", "key"):
        if value := getattr(finding, name):
            print(f"  {name:<9} {value}")
    expected, got = _values(finding, follows)
    if expected is not None or got is not None:
        print(f"{indent}  recorded  {json.dumps(expected)}")
        print(f"{indent}  now       {json.dumps(got)}")
    for command in _commands(finding, file)[1 if follows else 0 :]:
        print(f"{indent}  more      {command}")


def _values(finding: Finding, follows: bool) -> tuple[Any, Any]:
    """What the sentence does not say already: of notifications the text, of other rows and steps nothing."""
    if finding.table == "notifications":
        before, after = finding.expected, finding.got
        return before and before["text"], after and after["text"]
    if follows or finding.table in _OUTCOMES:
        return None, None
    return finding.expected, finding.got


def _commands(finding: Finding, file: Path | None) -> list[str]:
    of = f" {file}" if file else ""
    commands = [f"choreo verify{of} --service {finding.service}"] if finding.service else []
    if isinstance(finding, Difference):
        commands.append(f"choreo trace {finding.trace}{of}")
    return commands


def _told(report: Report, verdict: str, file: Path | None) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "findings": [asdict(found) | {"commands": _commands(found, file)} for found in report.findings],
        "not_deterministic": [asdict(finding) for finding in report.unstable],
        "allowed": [asdict(finding) | {"reason": meant.reason} for finding, meant in report.allowed],
        "allowed_without_a_match": [asdict(allowance) for allowance in report.idle],
        "counts": report.counts,
        "seconds": report.seconds,
    }
