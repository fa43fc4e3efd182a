"""`choreo verify`: whether today's code decides what was decided, row by row and record by record."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import psycopg
import typer

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import services
from choreo.chassis.settings import SERVICES
from choreo.cli.debugging.closed_loop import print_what_if, what_if
from choreo.cli.debugging.past import whole
from choreo.cli.debugging.shuffle import shuffle
from choreo.errors import Unavailable, UsageError
from choreo.progress import telling
from choreo.replay.sources.recording import NotARecording, size_of
from choreo.replay.sources.records import Broken, Source
from choreo.replay.verify.findings import Allowance, Finding, Report, WrongAllowance, read_allowances
from choreo.replay.verify.second_run import SecondReplayDied, verified_again
from choreo.replay.verify.verify import verify as replayed

_SHOWN = 20
_VERDICTS = {0: "match", 1: "changed", 2: "not deterministic", 3: "incomplete"}


def verify(
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    service: Annotated[str | None, typer.Option(help="Only this service: user, order, ...")] = None,
    sample: Annotated[float, typer.Option(min=0.0, max=1.0, help="Only this share of the keys.")] = 1.0,
    allow: Annotated[Path | None, typer.Option(help="Intended changes, as TOML: see docs/replay.md.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the result there as JUnit XML, too.")] = None,
    closed_loop: Annotated[
        bool, typer.Option("--closed-loop", help="What if: feed the requests alone, compare how it ends.")
    ] = False,
    shuffles: Annotated[
        int | None,
        typer.Option("--shuffle", metavar="N", min=1, help="Instead, try N other orders of what was heard."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Replay everything through today's code, twice, and compare it with what was recorded.

    Compares every decision with its record, every row with the tables. Reads only. Exits 0 for a match,
    1 if something is changed, 2 if two replays disagree, 3 if too much is missing for either.

    --shuffle finds out whether it matters which of two topics was heard first. Exits 1 if it does.
    """
    if service not in (None, *SERVICES):
        raise UsageError(f"There is no service {service}: choose from {', '.join(SERVICES)}.")
    if closed_loop and (service or sample < 1):
        raise UsageError(
            "--closed-loop lets all services hear what each decides: leave out --service and --sample, "
            "or verify one service or a sample without --closed-loop."
        )
    names = SERVICES if service is None else (service,)
    if shuffles is not None:
        if sample < 1 or allow or junit or closed_loop:
            raise UsageError("--shuffle goes with --service and --json only: it compares no record.")
        shuffle(file, names, shuffles, as_json=as_json)
    try:
        allowances = read_allowances(allow) if allow else []
        report = asyncio.run(_report(file, names, sample, allowances, closed_loop))
    except Broken as broken:
        report = Report([Finding("incomplete", "", str(broken))])
    except (WrongAllowance, NotARecording) as wrong:
        raise UsageError(str(wrong)) from None
    except (psycopg.Error, *LOG_UNREADABLE, SecondReplayDied, OSError) as error:
        raise Unavailable(f"Nothing can be verified: {str(error).splitlines()[0]}") from error
    again = " ".join(["choreo verify", *([str(file)] if file else []), "--service"])
    if junit:
        junit.write_bytes(_junit(report))
    if closed_loop:
        print_what_if(report, _VERDICTS[report.exit_code], file, as_json=as_json)
    elif as_json:
        print(json.dumps(_told(report, again), indent=2, default=str))
    else:
        _print(report, again)
    raise typer.Exit(report.exit_code)


async def _report(
    file: Path | None, names: Sequence[str], sample: float, allowances: Sequence[Allowance], closed_loop: bool
) -> Report:
    async with whole(file) as source:
        if closed_loop:
            return await what_if(source, allowances=allowances)
        return await report_on(source, names, sample=sample, allowances=allowances)


async def report_on(
    source: Source,
    names: Sequence[str] = SERVICES,
    *,
    sample: float = 1.0,
    allowances: Sequence[Allowance] = (),
    preload: Sequence[str] = (),
) -> Report:
    """Replays it here and in a second process, which first calls `preload`, as module:function."""
    missing = [name for name in names if name not in source.cut.services]
    report = Report()
    report.findings = [
        Finding("incomplete", name, f"the journal of {name} is not recorded") for name in missing
    ]
    known = services(source.cut.settings)
    chosen = {name: known[name] for name in names if name not in missing}
    since, total = time.monotonic(), size_of(source)
    with telling() as tell:
        async with verified_again(source, list(chosen), sample, preload) as again:
            tally = await replayed(
                source, chosen, sample=sample, progress=lambda done: tell("replaying", done, total)
            )
            report.seconds = time.monotonic() - since
            report.findings += tally.findings
            report.compare([*await again, *report.findings[: len(missing)]])
    report.counts = dict(tally.counts)
    report.allow(allowances)
    return report


def _print(report: Report, again: str) -> None:
    for finding in [*report.unstable, *report.findings][:_SHOWN]:
        print_finding(finding, "not deterministic" if finding in report.unstable else finding.kind)
        if finding.service:
            print(f"  again     {again} {finding.service}")
    if (more := len(report.unstable) + len(report.findings) - _SHOWN) > 0:
        print(f"... and {more} more: --json prints all")
    for finding, allowance in report.allowed:
        print(f"{finding.service}: allowed ({allowance.reason}): {finding.says}")
    for idle in report.idle:
        print(f"nothing matches the allowed change: {idle.reason}")
    items = report.counts.get("items", 0)
    rate = f", {items / report.seconds:.0f}/s" if report.seconds else ""
    print(f"{_VERDICTS[report.exit_code]}: {items} items in {report.seconds:.1f} s{rate}")
    kinds = ("inputs", "steps", "decisions", "records", "rows")
    print(f"  {'':<12}" + "".join(f"{kind:>12}" for kind in kinds))
    for name in SERVICES:
        counts = [report.counts.get(f"{name} {kind}") for kind in kinds]
        if any(count is not None for count in counts):
            print(f"  {name:<12}" + "".join(f"{count or 0:>12}" for count in counts))


def print_finding(finding: Finding, kind: str) -> None:
    print(f"{finding.service or 'stream'}: {kind}: {finding.says}")
    for name in ("handler", "at", "key"):
        if value := getattr(finding, name):
            print(f"  {name:<9} {value}")
    if finding.expected is not None or finding.got is not None:
        print(f"  recorded  {json.dumps(finding.expected)}")
        print(f"  replayed  {json.dumps(finding.got)}")


def _told(report: Report, again: str) -> dict[str, Any]:
    return {
        "verdict": _VERDICTS[report.exit_code],
        "findings": [asdict(found) | {"again": f"{again} {found.service}"} for found in report.findings],
        "not_deterministic": [asdict(finding) for finding in report.unstable],
        "allowed": [asdict(finding) | {"reason": meant.reason} for finding, meant in report.allowed],
        "allowed_without_a_match": [asdict(allowance) for allowance in report.idle],
        "counts": report.counts,
        "seconds": report.seconds,
    }


def _junit(report: Report) -> bytes:
    """A test case for each service and kind of comparison."""
    suite = ElementTree.Element("testsuite", name="choreo verify", time=f"{report.seconds:.3f}")
    failed = 0
    for service in ("", *SERVICES):
        for kind in ("step", "closure", "state", "incomplete"):
            found = [one for one in report.findings if (one.service, one.kind) == (service, kind)]
            unstable = [one for one in report.unstable if (one.service, one.kind) == (service, kind)]
            case = ElementTree.SubElement(suite, "testcase", classname=service or "stream", name=kind)
            for finding in [*unstable, *found]:
                failed += 1
                told = ElementTree.SubElement(case, "failure", message=finding.says)
                told.text = f"{finding.handler}\nexpected {finding.expected}\ngot {finding.got}"
    suite.set("failures", str(failed))
    suite.set("tests", str(len(suite)))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
