"""What the screens show: the dictionaries that verbs print with `--json`, and the commands that do."""

import asyncio
import re
import shlex
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from choreo.chassis.registry import all_topics
from choreo.console.past import Past
from choreo.console.verification import Verification
from choreo.operations.reading.checkup import examine, finding_as_dict, together
from choreo.operations.reading.flows import flows, settings_of, traced
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.log import read_log
from choreo.operations.reading.parked_groups import group_as_dict, parked_as_dict, parked_in
from choreo.operations.reading.past import read_past, tables_of
from choreo.operations.reading.replay_source import System
from choreo.replay.trace.as_dict import flows_as_dict, log_as_dict, trace_as_dict
from choreo.replay.trace.flows import FlowFilter, state_of
from choreo.replay.trace.log import RecordFilter

T = TypeVar("T")

AT_ONCE = 2
"""So many views read at the same time, each with one session per database."""
TIMEOUT_SECONDS = 30.0
_NEWEST = 10
_ADDRESS = re.compile(r'([^\s"\\<>,@\[\]])[^\s"\\<>,@\[\]]*@([^\s"\\<>,]+)')
"""Not `order-events[3]@120`."""


@dataclass(frozen=True, slots=True)
class View:
    data: Mapping[str, Any]
    command: str
    """What prints the same."""
    found: bool = True
    ended: bool = True
    """Nothing is to come."""


class Views:
    """Reads when somebody looks, and only then."""

    def __init__(self, where: System) -> None:
        self.where = where
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._walking = threading.Lock()
        self.verifying = Verification(where)
        self.tables = tables_of(where)
        """Whose past there is."""

    @property
    def topic_prefix(self) -> str:
        return settings_of(self.where).topic_prefix

    @property
    def topics(self) -> Sequence[str]:
        return all_topics(self.topic_prefix)

    async def now(self) -> View:
        newest = await self._read(flows(self.where, FlowFilter(), _NEWEST))
        if isinstance(self.where, Installation):
            found = together(await self._read(examine(self.where)))
            findings = [finding_as_dict(finding) for finding in found]
            told: dict[str, Any] = {"findings": findings, "recording": None}
        else:
            kept = ("at", "services", "counts", "gaps", "redacted", "until")
            manifest = {name: self.where.manifest.get(name) for name in kept}
            told = {"findings": [], "recording": {"file": self.where.path.name, **manifest}}
        ended = not isinstance(self.where, Installation)
        return View(told | flows_as_dict(newest), "choreo doctor", ended=ended)

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
            return _ADDRESS.sub(r"\1…@\2", told)
        case Mapping():
            return {masked(name): masked(value) for name, value in told.items()}
        case list() | tuple():
            return [masked(one) for one in told]
    return told
