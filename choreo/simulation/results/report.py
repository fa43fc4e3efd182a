"""What a long run has shown: a page, and beside it what it takes to go on where it was broken off."""

import hashlib
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from choreo.chassis.code_version import code_version
from choreo.chassis.installed import package_of
from choreo.chassis.registry import service_names
from choreo.errors import Unavailable
from choreo.machine import machine
from choreo.message.catalog import FACT_OF_TYPE
from choreo.simulation.plan import FAULTS
from choreo.simulation.results.summary import Summary

_NAMED = 500
"""So many of what was not reached are named in a line."""
_KEPT_SECONDS = 10.0
"""So often it is written while worlds are played."""


class Report:
    """A page at `path`, and next to it the same name with `.json`: seeds done, and what came of them."""

    def __init__(self, path: Path, command: str, schedules: int, first: int | None, any_seed: int) -> None:
        """Goes on from the first seed that is not done. `first` is the seed that was asked for, if one was.

        Raises `Unavailable` where what was begun was other code's, or had another first seed.
        """
        self._path, self._kept = path, path.with_suffix(".json")
        self._command, self._schedules = command, schedules
        self._code = digest_of_code()
        self._written = time.monotonic()
        told = self._told()
        self.first: int = told["seed"] if told else any_seed if first is None else first
        if first not in (None, self.first):
            raise Unavailable(f"{self._kept} began with seed {self.first}, and not with {first}: {_OR_ELSE}")
        if told and told["code"] != self._code:
            raise Unavailable(f"{self._kept} is of other code, whose worlds are others: {_OR_ELSE}")
        self.done = Summary.from_told(told["summary"]) if told else Summary()

    def _told(self) -> Any:
        try:
            return orjson.loads(self._kept.read_bytes()) if self._kept.exists() else None
        except (OSError, orjson.JSONDecodeError) as error:
            raise Unavailable(f"{self._kept} cannot be read ({error}): {_OR_ELSE}") from None

    @property
    def seeds(self) -> range:
        """Those that are left."""
        if self.done.broken:
            return range(0)
        return range(self.first + self.done.schedules, self.first + self._schedules)

    def total(self, further: Summary) -> Summary:
        """With what was done before."""
        total = Summary(wall_seconds=self.done.wall_seconds + further.wall_seconds)
        total.add(self.done)
        total.add(further)
        return total

    def keep_now_and_then(self, further: Summary) -> None:
        if time.monotonic() > self._written + _KEPT_SECONDS:
            self._written = time.monotonic()
            self.keep(self.total(further))

    def keep(self, total: Summary) -> None:
        """Page and what comes beside it."""
        told = {"seed": self.first, "code": self._code, "summary": total.to_told()}
        _write(self._path, "\n".join(self._page(total)).encode())
        _write(self._kept, orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def _page(self, summary: Summary) -> Iterator[str]:
        on, last = machine(), self.first + summary.schedules - 1
        yield "# Simulation\n"
        day, code = f"{datetime.now(UTC):%Y-%m-%d}", f"{code_version()} (`{self._code[:12]}`)"
        yield f"`{self._command}`, {day}, {code}, on {on['cores']} cores, {on['cpu']}.\n"
        yield "| | |\n|---|---|"
        yield f"| schedules | {summary.schedules:,} of {self._schedules:,}: seeds {self.first} to {last} |"
        yield f"| steps | {summary.steps:,} |"
        speed = f"{summary.schedules_per_second:.1f} schedules/s, {summary.steps_per_second:,.0f} steps/s"
        yield f"| time | {summary.wall_seconds:,.0f} s: {speed} |"
        yield f"| faults | {summary.faults:,} |"
        yield f"| broke a promise | {len(summary.broken)} |\n"
        for outcome in summary.broken:
            for violation in outcome.violations:
                yield f"- Seed {outcome.seed}, {violation.promise}: {violation.text}"
        yield "\n| Fault | Worlds |\n|---|---|"
        for fault, sentence in FAULTS.items():
            yield f"| `{fault}`: {sentence} | {summary.kinds[fault]:,} |"
        yield "\n## What was reached, and what was not\n"
        for reached in summary.coverage():
            yield f"- {reached.line(_NAMED)}"
        yield ""


def digest_of_code() -> str:
    """Of all that a seed's world follows from: Python, and choreo, events and services as they lie here."""
    facts = {fact.__module__.partition(".")[0] for fact in FACT_OF_TYPE.values()}
    digest = hashlib.sha256(platform.python_version().encode())
    for package in sorted({"choreo", *facts, *map(package_of, service_names())}):
        for folder in getattr(find_spec(package), "submodule_search_locations", None) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """All or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)


_OR_ELSE = "name another file, or remove this one to begin anew"
