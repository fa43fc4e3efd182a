"""`choreo verify` for a page, whose last verdict is found again by whoever looks later."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from choreo.console.job import Job
from choreo.embedded.home import Home, cache_directory
from choreo.embedded.secrets import write_secret
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import System


@dataclass
class Verification(Job):
    kept_in: Path | None = None
    """Where the last one is found again by the next process."""
    closed_loop: bool = False

    def __post_init__(self) -> None:
        if self.kept_in:
            self._remember(self.kept_in)

    @property
    def words(self) -> Sequence[str]:
        return ("choreo", "verify", *self.file, *(("--closed-loop",) if self.closed_loop else ()))

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"closed_loop": self.closed_loop, "report": self.printed}

    def ended(self) -> None:
        if self.kept_in:
            with suppress(OSError):  # it is shown all the same, until this process ends
                self.kept_in.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_secret(self.kept_in, self.as_dict())

    def _remember(self, path: Path) -> None:
        try:
            told = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        self.closed_loop, self.printed, self.error = told["closed_loop"], told["report"], told["error"]
        self.begun_at, self.ended_at = (
            told[name] and datetime.fromisoformat(told[name]) for name in ("begun_at", "ended_at")
        )


def kept_in(where: System) -> Path:
    """Returns where the last verdict is kept: with the system's data, or under what the recording is."""
    if isinstance(where, Installation):
        return Home(where.settings).path / "data" / "verified.json"
    path = where.path.resolve()
    told = f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}"
    return cache_directory() / "verified" / f"{sha256(told.encode()).hexdigest()}.json"


def origins_of(findings: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Puts what follows from a divergence behind it; each finding alone where nothing is said of that."""

    def origin(finding: Mapping[str, Any]) -> Any:
        told = finding.get("origin")
        return (told["service"], told["event"]) if told else id(finding)

    return [list(found) for _, found in groupby(findings, key=origin)]
