"""`choreo minimize`: the few inputs of a recording that show a divergence, and a test that holds it."""

import asyncio
import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.chassis.registry import services
from choreo.cli.debugging.expected import Expected, Words, expected, not_looked_at
from choreo.cli.debugging.verify_formats import print_finding
from choreo.errors import HandlerMisbehaves, Incomplete, Unavailable, UsageError
from choreo.operations.reading.replay_source import check_service
from choreo.progress import Tell, telling
from choreo.replay.sources.recording import NotARecording, Recording, Writer, size_of
from choreo.replay.sources.records import Broken
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.forgetting import forgetting
from choreo.replay.verify.minimize import Minimum, NotReproduced
from choreo.replay.verify.minimize import minimize as minimized
from choreo.replay.verify.verify import verify
from choreo.terminal import print_line

_TEST = '''\
"""{about}.

Written by `choreo minimize`. It asserts what was *recorded*: it fails until the recorded inputs lead to that
again. Whether that was right it does not know. After a change of the code that was not meant to change
anything, keep it; of a bug as old as the recording it says the opposite of what should be.
"""

import asyncio
from pathlib import Path

from choreo.replay.verify.report import report_on
from choreo.replay.sources.recording import Recording

RECORDING = Path(__file__).with_suffix(".ndjson")


def test_{name}_leads_to_what_was_recorded() -> None:
    recording = Recording(RECORDING)
    report = asyncio.run(report_on(recording, recording.cut.services))
    assert [finding.says for finding in [*report.unstable, *report.findings]] == []
'''


def minimize(
    file: Annotated[Path, typer.Argument(help="A recording that does not match: see choreo verify.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the smallest recording.")] = None,
    test: Annotated[
        Path | None,
        typer.Option("--pytest", help="Write a test that fails, with its recording beside it (.ndjson)."),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="TYPE: EXPR", help="What should be: what violates it is the divergence."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="With --expect: the service asked, if not the one that decides TYPE.")
    ] = None,
    words: Annotated[
        str, typer.Option(metavar="MODULE", help="With --expect: the shop's test words, for --pytest.")
    ] = "tests.words",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Find the fewest inputs of a recording that still show its first divergence.

    Other keys go first, then inputs, until none can go. The diverging input meets the same state as before.
    Exits 0 if nothing diverges, 1 with the smallest recording, 3 if too much is missing to tell.

    --expect takes what should be instead of what was recorded: TYPE is a fact or an input, EXPR knows what
    choreo replay --break knows, and the fields of the fact. The written test says what should be.

    Example: choreo minimize monday.ndjson --pytest tests/test_monday.py

    Example: choreo minimize FILE --expect 'MoneyDeposited: balance == state.account.balance + amount'
    """
    if test and test.suffix != ".py":
        raise UsageError(f"{test} is no name of a test: it must end in .py.")
    if service is not None and expect is None:
        raise UsageError("--service goes with --expect: otherwise it is the service that diverges.")
    if service is not None:
        check_service(service)
    files = [path for path in (out, test and test.with_suffix(".ndjson")) if path]
    if any(path.resolve() == file.resolve() for path in files):
        raise UsageError(f"{file} would be overwritten: choose another name.")
    since = time.monotonic()
    wish: Expected | None = None
    parked = ""
    try:
        if expect is None:
            minimum = asyncio.run(_minimum(Recording(file)))
        else:
            wish = asyncio.run(_expected(Recording(file), expect, service, words))
            minimum = wish.minimum if wish else None
            parked = not_looked_at(Recording(file), expect, service)
        if minimum is not None:
            for path in files:
                _write(path, minimum)
            if test:
                test.write_text(wish.test() if wish else _test(minimum))
    except NotARecording as wrong:
        raise UsageError(str(wrong)) from None
    except (NotReproduced, Broken) as wrong:
        raise Incomplete(str(wrong)) from None
    except OSError as error:
        raise Unavailable(f"Nothing was written: {error}") from error
    commands = [] if minimum is None else _commands(minimum, files, test, expected=wish is not None)
    if as_json:
        told = _as_dict(minimum, commands) | (wish.as_dict() if wish else {})
        print(json.dumps(told | {"not_looked_at": parked or None}, indent=2))
    elif minimum is None:
        nothing = "matches: there is nothing to minimize" if expect is None else f"is as expected: {expect}"
        print_line(f"{file} {nothing}.")
    else:
        _print(minimum, wish, commands, time.monotonic() - since)
    if parked and not as_json:
        print_line(parked)
    raise typer.Exit(0 if minimum is None else 1)


async def _minimum(recording: Recording) -> Minimum | None:
    """Returns None where nothing diverges. Raises `Incomplete`, `NotReproduced` and `Broken`."""
    known = services(recording.cut.settings)
    chosen = {name: known[name] for name in recording.cut.services}
    items = size_of(recording)
    with telling() as tell:

        async def found(told: Tell) -> list[dict[str, Any]]:
            tally = await verify(recording, chosen, progress=lambda done: told("replaying", done, items))
            return [asdict(finding) for finding in tally.findings]

        everything = [Finding.from_dict(one) for one in forgetting(found, tell)]
    effects = [finding for finding in everything if finding.kind == "effect"]
    findings = [finding for finding in everything if finding.kind != "effect"]
    if not findings and effects:
        raise HandlerMisbehaves(f"{effects[0].says}: nothing else differs.")
    if not findings:
        return None
    finding = _first(findings)
    with telling() as tell:
        return await minimized(
            recording,
            known[finding.service],
            finding,
            lambda done, to_come, left: tell(f"trying, {left} left", done, done + to_come),
        )


async def _expected(recording: Recording, text: str, service: str | None, words: str) -> Expected | None:
    with telling() as tell:
        return await expected(
            recording,
            text,
            service,
            words,
            lambda done, to_come, left: tell(f"trying, {left} left", done, done + to_come),
        )


def _first(findings: list[Finding]) -> Finding:
    """Returns the first divergence that belongs to an input."""
    broken = next((finding for finding in findings if not finding.service), None)
    if broken:
        raise Incomplete(broken.says)
    told = next((one for one in findings if one.kind != "incomplete" and one.key and one.time), None)
    if told:
        return told
    changed = next((one for one in findings if one.kind != "incomplete"), None)
    if changed is None:
        raise Incomplete(findings[0].says)
    raise Incomplete(
        f"{changed.says[:1].upper()}{changed.says[1:]}: no recording says which input that follows from. "
        f"`choreo verify` of the running system names it."
    )


def _write(path: Path, minimum: Minimum) -> None:
    with Writer(path, minimum.reduced.cut, None) as writer:
        writer.write(minimum.reduced.items)
        writer.finish()


def _test(minimum: Minimum) -> str:
    """The type of an input is whatever its recording says: only its letters get into the text."""
    finding = minimum.finding
    type_ = re.sub(r"\W+", "_", finding.type)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", f"{finding.service}_{type_}").lower()
    return _TEST.format(about=f"{type_} {finding.event} in {finding.service}", name=name)


def _commands(minimum: Minimum, files: list[Path], test: Path | None, *, expected: bool) -> list[str]:
    service, key, event = minimum.finding.service, minimum.finding.key, minimum.finding.event
    commands = [] if expected else [f"choreo verify {path} --service {service}" for path in files]
    today = " --today" if expected else ""
    commands += [
        f"choreo replay {path} --service {service} --key {key} --until {event}{today}" for path in files[:1]
    ]
    return [*commands, f"pytest {test}"] if test else commands


def _print(minimum: Minimum, wish: Expected | None, commands: list[str], seconds: float) -> None:
    if wish:
        print_finding(minimum.finding, "expectation", ("expected", "decided"))
    else:
        print_finding(minimum.finding, minimum.finding.kind)
    inputs = minimum.reduced.inputs
    records = len(minimum.reduced.items) - len(inputs)
    print(f"{len(inputs)} of {minimum.of} inputs, {records} records, {minimum.tries} tries, {seconds:.1f} s")
    for one in inputs:
        print_line(f"  {one.entry.type:<20} {one.entry.id} {one.entry.at}".rstrip())
    if wish:
        print_line(wish.words.line if isinstance(wish.words, Words) else f"not in words: {wish.words}")
        if not wish.today:
            print("That was recorded, and today's code does not show it.")
    for command in commands:
        print(command)


def _as_dict(minimum: Minimum | None, commands: list[str]) -> dict[str, Any]:
    if minimum is None:
        return {"diverges": False}
    inputs = minimum.reduced.inputs
    return {
        "diverges": True,
        "finding": minimum.finding.as_dict(),
        "inputs": [
            {"id": str(one.entry.id), "type": one.entry.type, "at": one.entry.at or None} for one in inputs
        ],
        "records": len(minimum.reduced.items) - len(inputs),
        "of": minimum.of,
        "tries": minimum.tries,
        "commands": commands,
    }
