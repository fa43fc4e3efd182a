"""A verb for a page: in a process of its own, begun and cancelled by a person, one at a time of each kind."""

import asyncio
import json
import os
import signal
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from choreo.embedded.process import tied_to_this_process
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import System
from choreo.replay.sources.rows import plain

_STOP_WITHIN_SECONDS = 5.0


@dataclass
class Job(ABC):
    """The one that runs, or the last one."""

    where: System
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    progress: str = ""
    """What it said last."""
    printed: Any = None
    """By the last one that came to its end, with `--json`."""
    error: str = ""
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _process: Process | None = None
    _following: "asyncio.Task[None] | None" = None

    @property
    @abstractmethod
    def words(self) -> Sequence[str]:
        """The command that does the same."""

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def file(self) -> Sequence[str]:
        return () if isinstance(self.where, Installation) else (str(self.where.path),)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "runs": self.runs,
            "begun_at": self.begun_at and plain(self.begun_at),
            "ended_at": self.ended_at and plain(self.ended_at),
            "progress": self.progress,
            "error": self.error,
        }

    async def start(self, **asked: Any) -> None:
        """`asked` are fields of it. Does nothing while one runs."""
        async with self._starting:
            if self.runs:
                return
            for name, value in asked.items():
                setattr(self, name, value)
            self.begun_at, self.ended_at = datetime.now(UTC), None
            self.progress, self.printed, self.error = "", None, ""
            _, verb, *arguments = self.words
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "choreo.cli.main", verb, "--json", *arguments),
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
            self.printed = json.loads(printed)
        else:
            self.error = "It was cancelled." if code == -signal.SIGTERM else self.progress
        self.ended()

    def ended(self) -> None:  # noqa: B027 - most have nothing more to do
        """Called once it has, however that came."""


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
