"""This run's figures held against those of an earlier one, as `--json` printed them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo.errors import UsageError

_CONDITIONS = ("machine", "seconds", "judged")
"""They stand beside the measurements, and are none."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One that both runs have."""

    name: str
    """Where it stands in the JSON, as `sustained.cpu_ms_per_order.order`."""
    earlier: float
    now: float

    @property
    def ratio(self) -> float | None:
        """Of now to earlier: none where it was zero."""
        return self.now / self.earlier if self.earlier else None


@dataclass(frozen=True)
class Comparison:
    figures: Sequence[Figure]
    remarks: Sequence[str]
    """What could not be compared, and what has to be known of the rest: a sentence each."""


def read_earlier(path: Path) -> dict[str, Any]:
    """Raises UsageError where this is nothing that `--json` printed."""
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be compared with: {error}") from error
    if not isinstance(earlier, dict) or not isinstance(earlier.get("machine"), dict):
        raise UsageError(f"{path} holds no figures of `choreo bench --json`.")
    return earlier


def compare(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    """Whatever is a number in both, in this run's order."""
    before, after = dict(_numbers(earlier)), dict(_numbers(now))
    return Comparison(
        [Figure(name, before[name], figure) for name, figure in after.items() if name in before],
        [
            *_void("The earlier run", earlier),
            *_void("This run", now),
            *_other_conditions(earlier, now),
            *_lacking("The earlier run", after, before),
            *_lacking("This run", before, after),
        ],
    )


def _numbers(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, found in results.items():
        if name not in _CONDITIONS:
            yield from _leaves(name, found)


def _leaves(name: str, found: Any) -> Iterator[tuple[str, float]]:
    match found:
        case dict():
            for part, inner in found.items():
                yield from _leaves(f"{name}.{part}", inner)
        case list():
            for number, inner in enumerate(found):
                yield from _leaves(f"{name}.{number}", inner)
        case bool():
            pass
        case int() | float():
            yield name, found


def _void(run: str, results: Mapping[str, Any]) -> Iterator[str]:
    if any(verdict["violations"] for verdict in results.get("judged", {}).values()):
        yield f"{run} is void: promises were broken."


def _other_conditions(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What figures hang on, the load included that the machine had before."""
    were = earlier["machine"] | {"seconds": earlier.get("seconds")}
    for name, value in (now["machine"] | {"seconds": now.get("seconds")}).items():
        if were.get(name) != value:
            yield f"Under other conditions: {name} was {were.get(name)} and is {value}."


def _lacking(run: str, there: Mapping[str, float], here: Mapping[str, float]) -> Iterator[str]:
    """A sentence for each measurement that is not there at all, and for each figure that is not."""
    measured = {name.partition(".")[0] for name in here}
    told = set()
    for name in there:
        measurement = name.partition(".")[0]
        if measurement in measured:
            if name not in here:
                yield f"{run} has no {name}."
        elif measurement not in told:
            told.add(measurement)
            yield f"{run} has no {measurement}."
