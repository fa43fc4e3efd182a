"""`choreo verify` for a page: in a process of its own, begun and cancelled by a person, one at a time."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from choreo.embedded.process import tied_to_this_process
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import System
from choreo.replay.sources.rows import plain

_STOP_WITHIN_SECONDS = 5.0


@dataclass
class Verification:
    """The one that runs, or the last one."""

    where: System
    closed_loop: bool = False
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    progress: str = ""
    """What it said last."""
    report: Mapping[str, Any] | None = None
    """Of the last one that came to its end, as `choreo verify --json` prints it."""
    error: str = ""
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _process: Process | None = None
    _following: "asyncio.Task[None] | None" = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def words(self) -> Sequence[str]:
        """The command that does the same."""
        file = () if isinstance(self.where, Installation) else (str(self.where.path),)
        return ("choreo", "verify", *file, *(("--closed-loop",) if self.closed_loop else ()))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "runs": self.runs,
            "closed_loop": self.closed_loop,
            "begun_at": self.begun_at and plain(self.begun_at),
            "ended_at": self.ended_at and plain(self.ended_at),
            "progress": self.progress,
            "error": self.error,
            "report": self.report,
        }

    async def start(self, *, closed_loop: bool) -> None:
        """Does nothing while one runs."""
        async with self._starting:
            if self.runs:
                return
            self.closed_loop, self.begun_at, self.ended_at = closed_loop, datetime.now(UTC), None
            self.progress, self.report, self.error = "", None, ""
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "choreo.cli.main", *self.words[1:], "--json"),
                env=_environment(self.where),
                stdout=PIPE,
                stderr=PIPE,
                preexec_fn=tied_to_this_process(signal.SIGKILL),
            )
            self._following = asyncio.create_task(self._follow(self._process))

    async def cancel(self) -> None:
        """Returns once it has ended. Does nothing where none runs."""
        if self._process and self._following:
            self._process.terminate()
            try:
                await asyncio.wait_for(asyncio.shield(self._following), _STOP_WITHIN_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._following

    async def _follow(self, process: Process) -> None:
        assert process.stdout and process.stderr
        printing = asyncio.create_task(process.stdout.read())
        async for line in process.stderr:
            self.progress = line.decode(errors="replace").strip() or self.progress
        printed, code = await printing, await process.wait()
        self.ended_at, self._process = datetime.now(UTC), None
        if code in range(4) and printed:
            self.report = json.loads(printed)
        else:
            self.error = "It was cancelled." if code == -signal.SIGTERM else self.progress


def _environment(where: System) -> dict[str, str]:
    """With nothing but the observer's access, as if the parts were somebody else's: no run file is read."""
    home = f"{os.devnull}/nowhere"
    own = {
        name: text
        for name, text in os.environ.items()
        if not (name.startswith("CHOREO_") or "KAFKA_" in name or name.endswith("_DATABASE_URL"))
    }
    told = own | {"CHOREO_HOME": home, "CHOREO_ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1"}
    if not isinstance(where, Installation):
        return told
    settings = where.settings
    return {
        **told,
        **where.kafka.environment(),
        **{f"{name.upper()}_DATABASE_URL": url for name, url in where.database_urls.items()},
        "CHOREO_TOPIC_PREFIX": settings.topic_prefix,
        "CHOREO_PARTITIONS": str(settings.partitions),
        "CHOREO_OWN": json.dumps(settings.own),
    }


def origins_of(findings: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Puts what follows from a divergence behind it; each finding alone where nothing is said of that."""

    def origin(finding: Mapping[str, Any]) -> Any:
        told = finding.get("origin")
        return (told["service"], told["event"]) if told else id(finding)

    return [list(found) for _, found in groupby(findings, key=origin)]
