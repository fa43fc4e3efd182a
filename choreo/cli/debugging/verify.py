"""`choreo verify`: whether today's code decides what was decided, row by row and record by record."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import service_names
from choreo.cli.debugging.shuffle import shuffle
from choreo.cli.debugging.verify_formats import (
    closed_loop_as_json,
    print_closed_loop,
    print_report,
    report_as_json,
    report_as_junit,
)
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.replay_source import asked, key_in, system
from choreo.progress import Progress
from choreo.replay.history.moments import AtTime, NoMoment, moment_of
from choreo.replay.sources.recording import NotARecording
from choreo.replay.sources.records import Broken, Source
from choreo.replay.verify.findings import Finding, WrongAllowance, read_allowances
from choreo.replay.verify.report import Report, closed_loop_report, report_on
from choreo.replay.verify.second_run import SecondRunDied


def verify(
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
    service: Annotated[str | None, typer.Option(help="Only this service: user, order, ...")] = None,
    key: Annotated[
        str | None, typer.Option(help="Tell only what is about this user: an id or a login.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Tell only what was decided since: a time, or -5m.")
    ] = None,
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
    if service not in (None, *service_names()):
        raise UsageError(f"There is no service {service}: choose from {', '.join(service_names())}.")
    if closed_loop and (service or sample < 1 or key or since):
        raise UsageError(
            "--closed-loop lets all services hear what each decides: leave out --service and --sample, --key "
            "and --since, or verify one service or a sample without --closed-loop."
        )
    names = None if service is None else (service,)
    if shuffles is not None:
        if sample < 1 or allow or junit or closed_loop or key or since:
            raise UsageError("--shuffle goes with --service and --json only: it compares no record.")
        shuffle(file, names or service_names(), shuffles, as_json=as_json)
    try:
        allowances = read_allowances(allow) if allow else []
        key, moment = None if key is None else asyncio.run(key_in(system(file), key)), _time(since)
        verifying = partial(
            report_on, names=names, sample=sample, key=key, since=moment, allowances=allowances
        )
        looping = partial(closed_loop_report, allowances=allowances)
        report = asyncio.run(
            _report(file, partial(asked, file, service, key, moment), looping if closed_loop else verifying)
        )
    except Broken as broken:
        report = Report([Finding("incomplete", "", str(broken))])
    except (WrongAllowance, NotARecording, NoMoment) as wrong:
        raise UsageError(str(wrong)) from None
    except (psycopg.Error, *LOG_UNREADABLE, SecondRunDied, OSError) as error:
        raise Unavailable(f"Nothing can be verified: {str(error).splitlines()[0]}") from error
    if junit:
        junit.write_bytes(report_as_junit(report))
    if as_json:
        print(closed_loop_as_json(report, file) if closed_loop else report_as_json(report, file))
    elif closed_loop:
        print_closed_loop(report, file)
    else:
        print_report(report, file)
    if report.idle and not report.exit_code:
        raise UsageError(f"{allow} allows what has not happened ({report.idle[0].reason}): take that out.")
    raise typer.Exit(report.exit_code)


def _time(text: str | None) -> datetime | None:
    """Reads a time as somebody writes it. Raises `NoMoment`."""
    if text is None:
        return None
    moment = moment_of(text, datetime.now(UTC))
    if not isinstance(moment, AtTime):
        raise NoMoment(f"--since takes a time (2030-01-31T09:00:00Z, or -5m), not {text}.")
    return moment.time


async def _report(
    file: Path | None,
    opened: Callable[[], AbstractAsyncContextManager[Source]],
    look: Callable[[Source], Awaitable[Report]],
) -> Report:
    progress = Progress()
    opening = opened()  # where there is nothing to read it says so, and no more
    if file is None:
        progress.stage("reading the running system")
    try:
        async with opening as source:
            progress.done()
            return await look(source)
    finally:
        progress.done()
