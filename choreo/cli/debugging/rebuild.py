"""`choreo rebuild`: a service's rows from Kafka alone, beside the live ones; swapped in if asked."""

import asyncio
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Annotated

import psycopg
import typer

from choreo.chassis import clock
from choreo.chassis.database.connection import Connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE, describe_retrying
from choreo.chassis.registry import service_names
from choreo.collector import no_collector
from choreo.errors import Unavailable, UsageError
from choreo.operations.acting.rebuilt import SCHEMA, Busy, Rebuilt, open_database, read_snapshot
from choreo.operations.reading.installation import Installation, find_installation
from choreo.progress import Tell, telling
from choreo.replay.rebuild.rebuild import Copy, History, Incomplete, Topics
from choreo.replay.sources.records import Broken, Span
from choreo.replay.verify.findings import Finding
from choreo.terminal import print_line

_SHOWN = 20
_AT_ONCE = 500
"""So many keys are held up together while their rows are replaced."""
_HELD = 5.0
"""Seconds; a service that waits longer than that for a key tells whoever asks to come again."""
_TRIES = 5


def rebuild(
    service: Annotated[str, typer.Argument(help="Its name, as order.")],
    swap: Annotated[
        bool, typer.Option("--swap", help="Put the rebuilt rows in the place of live ones that differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Make a service's rows anew from Kafka alone, in the schema `rebuilt`, and compare them with the live.

    The service may go on meanwhile. Without --swap the live tables are only read. Exits 0 if both are equal,
    or were made so; 1 if they differ; 3 if something is missing, so that not everything can be said.
    """
    if service not in service_names():
        raise UsageError(f"There is no service {service}: choose from {', '.join(service_names())}.")
    try:
        report = asyncio.run(rebuilt(find_installation(), service, swap=swap))
    except (psycopg.Error, *LOG_UNREADABLE, Broken, Busy, OSError) as error:
        raise Unavailable(f"{service} cannot be rebuilt: {_first_line(error)}") from error
    if as_json:
        print(json.dumps(asdict(report) | {"verdict": report.verdict}, indent=2, default=str))
    else:
        _print(report)
    raise typer.Exit(report.exit_code)


@dataclass
class Report:
    """What was made, and how it compares."""

    service: str
    records: int = 0
    """Read."""
    facts: int = 0
    """Applied."""
    keys: int = 0
    rows: int = 0
    uncertain: int = 0
    """Rows of which Kafka does not tell the exact step."""
    differences: int = 0
    findings: list[Finding] = field(default_factory=list)
    """The first differences, and all that is incomplete."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of this process, up to the comparison."""
    replaced: int = 0
    """Rows."""
    kept: str = ""
    """The schema with the rows that were replaced."""
    held: float = 0.0
    """The longest time that keys were held up, in seconds."""
    swapped: bool = False

    @property
    def exit_code(self) -> int:
        """0 equal, 1 different, 3 incomplete."""
        if self.differences and not self.swapped:
            return 1
        return 3 if any(finding.kind == "incomplete" for finding in self.findings) else 0

    @property
    def verdict(self) -> str:
        return {0: "equal", 1: "different", 3: "incomplete"}[self.exit_code]


async def rebuilt(installation: Installation, name: str, *, swap: bool = False) -> Report:
    """Raises what reading Kafka and writing to Postgres raise, and `Busy`; then nothing is changed."""
    url = installation.owner_urls.get(name) or installation.database_urls[name]
    topics = Topics(installation.service(name), installation.settings, installation.kafka)
    work = _Rebuild(topics, installation.kafka)
    async with open_database(url) as conn:
        try:
            with no_collector(), telling() as tell:
                await work.build(conn, tell)
            if swap:
                with telling() as tell:
                    await work.swap(conn, tell)
        except Incomplete as incomplete:
            work.incomplete(str(incomplete))
    return work.report


class _Rebuild:
    def __init__(self, topics: Topics, access: KafkaAccess) -> None:
        self.report = Report(topics.service.name)
        self._topics = topics
        self._access = access
        self._tables = Rebuilt(topics.service.name, topics.service.store.mappings)
        self._numbers: dict[str, int] = {}
        """By key: of its partitions."""
        self._differing: set[str] = set()

    def incomplete(self, says: str, key: str = "") -> None:
        self.report.findings.append(Finding("incomplete", self.report.service, says, key))

    # -- beside the live tables ------------------------------------------------------------------

    async def build(self, conn: Connection, tell: Tell) -> None:
        """Fills the schema `rebuilt` and compares. It is one transaction: killed, it leaves nothing.

        Raises `Incomplete`, `Broken`, `Busy`.
        """
        began, cpu, report = time.monotonic(), time.process_time(), self.report
        before = await describe_retrying(self._access, self._topics.names)
        async with conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await self._tables.make(conn)
            settled = {place: log.latest for place, log in before.items()}
            snapshot = await read_snapshot(conn, self._topics, settled)
            spans = self._topics.spans(snapshot, await describe_retrying(self._access, self._topics.names))
            total = sum(span.end - span.first for span in spans.values())
            without: set[str] = set()
            async for history in self._topics.histories(spans):
                copy = history.copy(snapshot)
                self._count(history, copy, without)
                await self._tables.fill(conn, copy)
                tell("rebuilding", report.records, total)
            for key in sorted(snapshot.sequences.keys() - self._numbers.keys()):
                without.add(key)
                self.incomplete(f"Kafka has nothing of key {key}, and {report.service} has", key)
            tell("comparing", 0, 0)
            found = await self._tables.compare(conn, without)
        report.differences, self._differing = found.count, found.keys
        report.findings = [*found.findings, *report.findings]
        report.seconds, report.cpu_seconds = time.monotonic() - began, time.process_time() - cpu

    def _count(self, history: History, copy: Copy, without: set[str]) -> None:
        report = self.report
        for key in copy.keys & self._numbers.keys():
            raise Incomplete(f"Key {key} is in several partitions, so that its order is not told.")
        self._numbers |= dict.fromkeys(copy.keys, history.number)
        report.records += history.records
        report.facts += copy.facts
        report.keys += len(copy.keys)
        report.rows += sum(map(len, copy.rows.values()))
        report.uncertain += sum(map(len, copy.guesses.values()))
        for key, why in copy.incomplete.items():
            without.add(key)
            self.incomplete(f"key {key} cannot be rebuilt: {why}", key)
        for key, count in copy.left_out.items():
            says = (
                f"{count} facts of key {key} are parked or were dropped, which the journal alone knows: "
                "they are left out, as they are live"
            )
            self.incomplete(says, key)

    # -- in their place --------------------------------------------------------------------------

    async def swap(self, conn: Connection, tell: Tell) -> None:
        """Replaces the rows of every key of which some differ, and those alone."""
        if not self._differing:
            self.report.swapped = True
            return
        async with conn.transaction():
            self.report.kept = await self._tables.make_keep(conn, clock.now())
        done = 0
        by_number: dict[int, list[str]] = {}
        for key in sorted(self._differing):
            by_number.setdefault(self._numbers.get(key, 0), []).append(key)
        for number, keys in sorted(by_number.items()):
            spans = {place: span for place, span in (await self._ends()).items() if place[1] == number}
            async for history in self._topics.histories(spans, keys):
                for some in _in_parts(keys, _AT_ONCE):
                    await self._replace(conn, history, some)
                    tell("swapping", done := done + len(some), len(self._differing))
        self.report.swapped = True

    async def _replace(self, conn: Connection, history: History, keys: Collection[str]) -> None:
        """Replaces the rows of these keys in one transaction, which is tried again where a key is locked."""
        for tries_left in reversed(range(_TRIES)):
            try:
                async with conn.transaction():
                    await self._tables.lock(conn, keys)
                    began = time.monotonic()
                    async with asyncio.timeout(_HELD):
                        copy = await self._made_anew(conn, history, keys)
                        mended = [key for key in keys if key not in copy.incomplete]
                        replaced = await self._tables.replace(conn, copy, mended, self.report.kept)
                self.report.held = max(self.report.held, time.monotonic() - began)
                self.report.replaced += replaced
                for key, why in copy.incomplete.items():
                    self.incomplete(f"key {key} is left as it is: {why}", key)
                return
            except (psycopg.errors.LockNotAvailable, TimeoutError):
                if not tries_left:
                    raise

    async def _made_anew(self, conn: Connection, history: History, keys: Collection[str]) -> Copy:
        """Returns the rows of these keys, which are locked, with all that has happened to them up to now."""
        ends = await self._ends()
        snapshot = await read_snapshot(
            conn, self._topics, {place: span.end for place, span in ends.items()}, keys
        )
        await history.read_on(ends, keys)
        return history.copy(snapshot, keys)

    async def _ends(self) -> dict[tuple[str, int], Span]:
        log = await describe_retrying(self._access, self._topics.names)
        return {place: Span(there.earliest, there.latest, there.latest) for place, there in log.items()}


def _in_parts(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(keys)
    while part := list(islice(rest, size)):
        yield part


def _print(report: Report) -> None:
    for finding in report.findings[:_SHOWN]:
        print_line(f"{finding.kind}: {finding.says}")
        if finding.expected is not None or finding.got is not None:
            print_line(f"  live      {json.dumps(finding.expected)}")
            print_line(f"  rebuilt   {json.dumps(finding.got)}")
    if (more := len(report.findings) - _SHOWN) > 0:
        print(f"... and {more} more: --json prints them")
    if report.seconds:
        rate = f"{report.facts / report.seconds:.0f}/s, " if report.facts else ""
        print_line(
            f"built: {report.rows} rows of {report.keys} keys from {report.facts} facts in "
            f"{report.seconds:.1f} s ({rate}{report.cpu_seconds:.1f} s of CPU), in the schema {SCHEMA}"
        )
    if report.uncertain:
        print_line(
            f"of {report.uncertain} rows Kafka tells the step only within bounds; the live one lies there"
        )
    print(f"{report.verdict}: {report.differences} rows differ" if report.seconds else "Nothing was built.")
    if report.kept:
        print_line(
            f"swapped: {report.replaced} rows; keys were held up for {report.held:.2f} s at most. What was "
            f"there before is in the schema {report.kept}; when you need it no more: "
            f"DROP SCHEMA {report.kept} CASCADE;"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
