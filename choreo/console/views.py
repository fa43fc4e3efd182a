"""What the screens show: the dictionaries that verbs print with `--json`, and the commands that do."""

import asyncio
import re
import shlex
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from choreo.chassis import clock
from choreo.chassis.registry import all_topics
from choreo.console.map import rates
from choreo.console.past import Past
from choreo.console.verification import Verification
from choreo.console.whole_table import SHOWN, WholeTable
from choreo.errors import UsageError
from choreo.operations.reading.checkup import examine, finding_as_dict, together
from choreo.operations.reading.flows import flows, settings_of, traced
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.log import read_log
from choreo.operations.reading.parked_groups import group_as_dict, parked_as_dict, parked_in
from choreo.operations.reading.past import read_past, read_rows, tables_of
from choreo.operations.reading.replay_source import System, check_service
from choreo.operations.reading.traffic import Jobs, jobs_of, recorded, traffic
from choreo.replay.sources.rows import plain
from choreo.replay.trace.as_dict import flows_as_dict, log_as_dict, trace_as_dict
from choreo.replay.trace.flows import FlowFilter, state_of
from choreo.replay.trace.log import RecordFilter

T = TypeVar("T")

AT_ONCE = 2
"""So many views read at the same time, each with one session per database."""
TIMEOUT_SECONDS = 30.0
SHARED_SECONDS = 1.0
EXAMINED_EVERY_SECONDS = 30.0
JOBS_EVERY_SECONDS = 10.0
"""A check-up asks for much that seldom changes; what changes is asked for each time."""
_NEWEST = 10
_ROWS = 100
_NAME = re.compile(r'[^\s"\\<>,\[\]]*')
"""What may stand before an address' `@`, from there back. Not `order-events[3]@120`."""
_DOMAIN = re.compile(r'[^\s"\\<>,]')


@dataclass(frozen=True, slots=True)
class View:
    data: Mapping[str, Any]
    command: str
    """What prints the same."""
    found: bool = True
    ended: bool = True
    """Nothing is to come."""
    template: str = ""
    """Where it is not that of the screen."""


class Views:
    """Reads when somebody looks, and only then."""

    def __init__(self, where: System, kept_in: Path | None = None) -> None:
        """`kept_in`: where the last verdict is found again by whoever comes after this process."""
        self.where = where
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._walking = threading.Lock()
        self._looking = asyncio.Lock()
        self._now: tuple[float, View] | None = None
        self._traffic: Mapping[str, Any] | None = None
        self._jobs: tuple[float, Jobs] | None = None
        self._examined: tuple[float, dict[str, Any]] | None = None
        self.verifying = Verification(where, kept_in=kept_in)
        self.folding = WholeTable(where)
        self.tables = tables_of(where)
        """Whose past there is."""

    @property
    def topic_prefix(self) -> str:
        return settings_of(self.where).topic_prefix

    @property
    def topics(self) -> Sequence[str]:
        return all_topics(self.topic_prefix)

    async def now(self) -> View:
        """Whoever comes while somebody looks, or soon after, sees what that one sees: what it costs does not
        depend on how many have it open.
        """
        async with self._looking:
            is_live = isinstance(self.where, Installation)
            if self._now is None or (is_live and time.monotonic() > self._now[0] + SHARED_SECONDS):
                view = await (self._live() if is_live else self._recorded())
                self._now = time.monotonic(), view
            return self._now[1]

    async def _live(self) -> View:
        assert isinstance(self.where, Installation)
        newest = await self._read(flows(self.where, FlowFilter(), _NEWEST))
        if self._jobs is None or time.monotonic() > self._jobs[0] + JOBS_EVERY_SECONDS:
            self._jobs = time.monotonic(), await self._read(jobs_of(self.where))
        told = await self._read(traffic(self.where, self._jobs[1]))
        told["rates"] = rates(told, self._traffic)
        self._traffic = told
        if self._examined is None or time.monotonic() > self._examined[0] + EXAMINED_EVERY_SECONDS:
            found = together(await self._read(examine(self.where)))
            at, findings = plain(clock.now()), [finding_as_dict(finding) for finding in found]
            self._examined = time.monotonic(), {"findings": findings, "examined_at": at}
        shown = self._examined[1] | {"recording": None, "traffic": told} | flows_as_dict(newest)
        return View(shown, "choreo doctor", ended=False)

    async def _recorded(self) -> View:
        assert not isinstance(self.where, Installation)
        newest = await self._read(flows(self.where, FlowFilter(), _NEWEST))
        kept = ("at", "services", "counts", "gaps", "redacted", "until")
        manifest = {name: self.where.manifest.get(name) for name in kept}
        held = {"file": self.where.path.name, **manifest}
        shown: dict[str, Any] = {
            "findings": [],
            "examined_at": None,
            "recording": held,
            "traffic": recorded(self.where),
        }
        return View(shown | flows_as_dict(newest), self._command("flows", *self._file))

    async def flows(self, filter: FlowFilter, limit: int, of: str | None, options: Sequence[str]) -> View:
        """`options` are those of the verb that say the same."""
        found = await self._read(flows(self.where, filter, limit, of=of))
        return View(flows_as_dict(found), self._command("flows", *self._file, *options))

    async def flow(self, id: str) -> View:
        trees, left_out = await self._read(traced(self.where, id))
        return View(
            trace_as_dict(id, trees, left_out),
            self._command("trace", id, *self._file),
            found=bool(trees),
            ended=not isinstance(self.where, Installation)
            or all(state_of(tree) in ("finished", "refused") for tree in trees),
        )

    async def log(self, place: str, filter: RecordFilter, limit: int, options: Sequence[str]) -> View:
        page, records = await self._read(read_log(self.where, place, filter, limit))
        return View(log_as_dict(page, records), self._command("log", place, *self._file, *options))

    async def pasts(self) -> View:
        """Whose past there is, and the newest flows to choose from."""
        newest = await self._read(flows(self.where, FlowFilter(), _NEWEST))
        command = self._command("flows", *self._file, "--limit", str(_NEWEST))
        return View({"services": self.tables} | flows_as_dict(newest), command)

    async def past(
        self, service: str, table: str | None, key: str, at: str | None, diff: str | None, row: str | None
    ) -> View:
        told = await self._read(read_past(self.where, service, key, at, diff, table), alone=True)
        latest = told["inputs"][-1]["id"] if told["inputs"] else "-0s"
        options = ["--at", at or latest, "--key", told["key"], *(("--table", table) if table else ())]
        options += ["--diff", diff] if diff else []
        command = self._command("state", service, *self._file, *options)
        return View(told | {"table": table or Past(told).latest_table, "row": row}, command)

    async def rows(self, service: str, table: str, after: Sequence[str]) -> View:
        """A table as it is, some rows at a time; of a recording, which keeps none, that it can be folded."""
        check_service(service)
        if isinstance(self.where, Installation):
            told = await self._read(read_rows(self.where, service, table, after, _ROWS))
        elif table not in self.tables.get(service, ()):
            raise UsageError(f"{self.where.path.name} has no table {table} of {service}.")
        else:
            told = {"service": service, "table": table, "rows": [], "next_after": None, "columns": []}
        command = self._command("state", service, *self._file, "--at", self.end, "--table", table)
        return View(told, command, template="rows.html")

    def whole_table(self, service: str, table: str) -> View:
        """The one that is folded, or was last."""
        if table not in self.tables.get(service, ()):
            raise UsageError(f"There is no table {table} of {service}.")
        told = {"service": service, "table": table, "end": self.end, **self.folding.of(service, table)}
        at = (told.get("moment") or self.end, "--table", table, "--limit", str(SHOWN))
        command = self._command("state", service, *self._file, "--at", *at)
        return View(told, command, ended=not told["runs"])

    @property
    def end(self) -> str:
        """As a moment, before which all lies that there is."""
        until = None if isinstance(self.where, Installation) else self.where.cut.until
        return str(plain(until)) if until else "-0s"

    async def input(self, service: str, key: str, number: int) -> str | None:
        """Returns the id of the input of this number, counted from 1, or of the last; None without any."""
        inputs = (await self._read(read_past(self.where, service, key, None), alone=True))["inputs"]
        return str(inputs[min(max(number, 1), len(inputs)) - 1]["id"]) if inputs else None

    async def parked(self) -> View:
        if isinstance(self.where, Installation):
            groups = await self._read(parked_in(self.where.database_urls))
            events = [
                parked_as_dict(queue, row)
                for group in groups
                for queue in group.queues
                for row in queue.events
            ]
            told = {"groups": [group_as_dict(group) for group in groups], "events": events, "flows": []}
            return View(told, "choreo dlq show")
        missing = await self._read(flows(self.where, FlowFilter(state="missing"), 100))
        command = self._command("flows", *self._file, "--state", "missing")
        return View({"groups": [], "events": [], **flows_as_dict(missing)}, command)

    def verification(self) -> View:
        """The one that runs, or the last."""
        return View(
            self.verifying.as_dict(), self._command(*self.verifying.words[1:]), ended=not self.verifying.runs
        )

    @property
    def _file(self) -> Sequence[str]:
        return () if isinstance(self.where, Installation) else (str(self.where.path),)

    def _command(self, *words: str) -> str:
        return shlex.join(["choreo", *words])

    async def _read(self, reading: Coroutine[Any, Any, T], *, alone: bool = False) -> T:
        """`alone`: it runs handlers, and those share one sandbox. Raises TimeoutError."""
        async with self._reading, asyncio.timeout(TIMEOUT_SECONDS):
            if isinstance(self.where, Installation):
                return await reading
            run = self._run_alone if alone else asyncio.run
            return await asyncio.to_thread(run, reading)  # a file is read without a pause

    def _run_alone(self, reading: Coroutine[Any, Any, T]) -> T:
        with self._walking:
            return asyncio.run(reading)


def masked(told: Any) -> Any:
    """Returns the same with e-mail addresses cut down to their first letter and their domain."""
    match told:
        case str():
            return _without_names(told)
        case Mapping():
            return {masked(name): masked(value) for name, value in told.items()}
        case list() | tuple():
            return [masked(one) for one in told]
    return told


def _without_names(text: str) -> str:
    """In time proportional to its length, whatever it is: records hold what strangers write."""
    *names, last = text.split("@")
    for number, follows in zip(range(len(names)), [*names[1:], last], strict=False):
        match = _NAME.match(names[number][::-1])
        length = match.end() if match else 0
        if length and _DOMAIN.match(follows):
            begin = len(names[number]) - length
            names[number] = f"{names[number][: begin + 1]}…"
    return "@".join([*names, last])
