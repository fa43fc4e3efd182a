"""The whole of a verification: replayed here and in a second process, less what somebody meant to change."""

import asyncio
import time
from asyncio import Task
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from choreo.chassis.registry import service_names, services
from choreo.chassis.service import Service
from choreo.errors import HandlerMisbehaves
from choreo.progress import Tell, telling
from choreo.replay.engine.deciding_lines import parting, path_of
from choreo.replay.engine.walk import Walk
from choreo.replay.sources.recording import size_of
from choreo.replay.sources.records import Broken, Cut, Source
from choreo.replay.verify.closed_loop import closed_loop
from choreo.replay.verify.findings import Allowance, Finding, Tally
from choreo.replay.verify.second_run import second_run
from choreo.replay.verify.verify import verify

_LOOK_SECONDS = 2.0
"""Nobody waits longer without a word."""


@dataclass
class Report:
    findings: list[Finding] = field(default_factory=list)
    unstable: list[Finding] = field(default_factory=list)
    """Those of which the second run found something else, or nothing; or which it alone found. Before them,
    what handlers tried to do outside."""
    allowed: list[tuple[Finding, Allowance]] = field(default_factory=list)
    idle: list[Allowance] = field(default_factory=list)
    """Those that match nothing."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was looked at."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """By service that is not verified: why, as a sentence."""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 match, 1 changed, 2 not deterministic, 3 incomplete."""
        if self.unstable:
            return 2
        if any(finding.kind != "incomplete" for finding in self.findings):
            return 1
        return 3 if self.findings else 0

    @property
    def verdict(self) -> str:
        return {0: "match", 1: "changed", 2: "not deterministic", 3: "incomplete"}[self.exit_code]

    def allow(self, allowances: Sequence[Allowance]) -> None:
        """Takes what was meant out of the findings."""
        left = []
        let_through: Counter[int] = Counter()
        for finding in self.findings:
            meant = next((one for one in allowances if one.allows(finding)), None)
            if meant and let_through[id(meant)] < meant.at_most:
                let_through[id(meant)] += 1
                self.allowed.append((finding, meant))
            else:
                left.append(finding)
        self.findings = left
        used = {id(allowance) for _, allowance in self.allowed}
        self.idle = [allowance for allowance in allowances if id(allowance) not in used]

    def narrow(self, key: str | None, since: datetime | None) -> None:
        """Leaves what is about this key, and what was decided since then. A row has no time: it stays."""

        def is_wanted(finding: Finding) -> bool:
            if finding.kind == "effect" or not finding.key:
                return True
            late = not (since and finding.time) or datetime.fromisoformat(finding.time) >= since
            return key in (None, finding.key) and late

        self.findings = [finding for finding in self.findings if is_wanted(finding)]
        self.unstable = [finding for finding in self.unstable if is_wanted(finding)]

    def compare(self, second: Iterable[Finding]) -> None:
        """With what a second run over the same stream found."""
        second = list(second)
        effects = {one.identity: one for one in [*self.findings, *second] if one.kind == "effect"}
        self.findings = [finding for finding in self.findings if finding.kind != "effect"]
        second = [finding for finding in second if finding.kind != "effect"]
        mine = {finding.identity: finding for finding in self.findings}
        other = {finding.identity: finding for finding in second}
        self.unstable = [finding for identity, finding in other.items() if identity not in mine]
        for identity, finding in mine.items():
            here = replace(finding, path=())
            if identity not in other:
                self.unstable.append(here)
            elif not _agree(finding, other[identity]):
                self.unstable.append(replace(here, parts=parting(finding.path, other[identity].path)))
        unstable = {finding.identity for finding in self.unstable}
        self.unstable = [*effects.values(), *self.unstable]
        self.findings = [finding for finding in self.findings if finding.identity not in unstable]


def _agree(one: Finding, other: Finding) -> bool:
    return (one.got, one.step) == (other.got, other.step)


async def report_on(
    source: Source,
    names: Sequence[str] | None = None,
    *,
    sample: float = 1.0,
    key: str | None = None,
    since: datetime | None = None,
    allowances: Sequence[Allowance] = (),
    preload: Sequence[str] = (),
) -> Report:
    """Verifies these services, or all that the source has; of what is found, only what is about this key and
    this time is told. The second process first calls `preload`, as module:function.
    """
    asked_for, names = names is not None, source.cut.services if names is None else names
    missing = [name for name in names if name not in source.cut.services]
    lacks = [Finding("incomplete", name, _why_absent(source.cut, name)) for name in missing]
    known, total = services(source.cut.settings), size_of(source)
    chosen = {name: known[name] for name in names if name not in missing}

    async def replay(tell: Tell) -> Tally:
        return await verify(
            source, chosen, sample=sample, progress=lambda done: tell("replaying", done, total)
        )

    second = second_run(source, list(chosen), sample, preload)
    report = await _report(replay, second, lacks)
    await _find_partings(report, source, chosen)
    report.absent = {} if asked_for else _absent(source.cut)
    report.narrow(key, since)
    report.allow(allowances)
    return report


async def _find_partings(report: Report, source: Source, services: Mapping[str, Service[Any]]) -> None:
    """Takes those steps once more here that the second run alone found, to see where they go apart."""
    theirs = {one.event: one.path for one in report.unstable if one.path}
    found: dict[str, str] = {}
    for name in {one.service for one in report.unstable if one.path}:
        walk = Walk(source, services[name], today=True, compare=False)
        with suppress(HandlerMisbehaves, Broken):  # that is a finding already
            async with aclosing(walk.inputs()) as inputs:  # type: ignore[type-var]
                async for ahead in inputs:
                    id = str(ahead.entry.id)
                    if id in theirs:
                        found[id] = parting(path_of(ahead.taken), theirs.pop(id))
                    walk.take(ahead)
    report.unstable = [replace(one, parts=found.get(one.event, one.parts)) for one in report.unstable]


async def closed_loop_report(
    source: Source, *, allowances: Sequence[Allowance] = (), preload: Sequence[str] = ()
) -> Report:
    """Closes the loop of all services. The second process first calls `preload`, as module:function."""
    if lacks := _lacking_for_closed_loop(source):
        return Report([Finding("incomplete", "", why) for why in lacks])
    known = services(source.cut.settings)
    replay = partial(closed_loop, source, {name: known[name] for name in source.cut.services})
    second = second_run(source, source.cut.services, 1.0, preload, in_closed_loop=True)
    report = await _report(replay, second, [])
    report.absent = _absent(source.cut)
    report.allow(allowances)
    return report


async def _report(
    replay: Callable[[Tell], Awaitable[Tally]],
    second: AbstractAsyncContextManager["Task[list[Finding]]"],
    lacks: Sequence[Finding],
) -> Report:
    """`lacks` is what both runs would find missing before they begin."""
    report, since = Report(), time.monotonic()
    with telling() as tell:
        async with second as found:
            tally = await replay(tell)
            report.seconds = time.monotonic() - since
            report.findings = [*lacks, *tally.findings]
            while not found.done():
                tell("waiting for the second replay", 0, 0)
                await asyncio.wait([found], timeout=_LOOK_SECONDS)
            report.compare([*found.result(), *lacks])
    report.counts = dict(tally.counts)
    return report


def _absent(cut: Cut) -> dict[str, str]:
    """Says which services are not verified that the source lacks, or that today's code has not."""
    missing = {name: _why_absent(cut, name) for name in service_names() if name not in cut.services}
    newer = "is in this recording, and unknown to this code"
    return missing | {name: f"{name} {newer}" for name in cut.unknown_services}


def _why_absent(cut: Cut, name: str) -> str:
    if cut.is_younger(name):
        return f"{name} is younger than this recording"
    return f"the journal of {name} is not recorded"


def _lacking_for_closed_loop(source: Source) -> list[str]:
    missing = [name for name in service_names() if name not in source.cut.services]
    lacks = [
        f"{_why_absent(source.cut, name)}: a closed loop needs those of all"
        for name in missing
        if not source.cut.is_younger(name)
    ]
    if source.cut.reduced:
        lacks.append("inputs were left out of this recording: a closed loop needs all that happened to a key")
    return lacks
