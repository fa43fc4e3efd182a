"""What a verification finds, and which of it somebody meant to change."""

import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self
from zlib import crc32

Kind = Literal["step", "closure", "state", "effect", "incomplete"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was recorded. Values are what JSON can hold."""

    kind: Kind
    """step: another decision; closure: a record nobody decided or a decision on no topic; state: another row;
    effect: a handler tried to reach outside, or printed; incomplete: something is missing, so that nothing
    can be said."""
    service: str
    says: str
    key: str = ""
    event: str = ""
    """The id of the input whose step it is, or of the record."""
    type: str = ""
    """What that input or record is; of a row, the fact that wrote it last."""
    at: str = ""
    """Where that lies in Kafka."""
    time: str = ""
    """When it was decided, as its service told; for a reader, who wants the first divergence first."""
    handler: str = ""
    """File and line."""
    table: str = ""
    column: str = ""
    expected: Any = None
    """As recorded."""
    got: Any = None
    """As today's code has it."""
    lines: tuple[str, ...] = ()
    """File and line of each own frame, from the handler to the place."""
    step: str = ""
    """A digest of all that today's code decides for this input: what a second run has to agree with."""
    parts: str = ""
    """Where two replays of this step go apart."""
    path: tuple[str, ...] = ()
    """Every own line that the step runs: for a second run to be compared with, and not to be told."""

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Self:
        """Reads what `asdict` has written, and JSON has carried from another process."""
        return cls(**told | {"lines": tuple(told["lines"]), "path": tuple(told["path"])})

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        told = asdict(self)
        del told["path"]
        return told

    @property
    def identity(self) -> tuple[str, ...]:
        """What a second run has to find as well."""
        if self.kind == "effect":
            return (self.kind, self.service, self.says)
        return (self.kind, self.service, self.key, self.event, self.table, self.column)


@dataclass
class Tally:
    """What was looked at, and what was found."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


@dataclass
class ServiceTally(Tally):
    """That of one service. After its first divergence a key is excluded: the rest follows from that."""

    service: str = ""
    sample: float = 1.0
    """Only this share of the keys is looked at."""
    keys: frozenset[str] | None = None
    """Only these are; None: all."""
    excluded_keys: set[str] = field(default_factory=set)
    _effects: set[tuple[str, ...]] = field(default_factory=set)

    def includes(self, key: str) -> bool:
        return key not in self.excluded_keys and self.is_asked(key)

    def is_asked(self, key: str) -> bool:
        """Tells whether something is asked about the key at all."""
        if self.keys is not None and key not in self.keys:
            return False
        return self.sample >= 1 or crc32(key.encode()) < self.sample * 2**32

    def has_effect(self, finding: Finding) -> None:
        """Adds it once for each place; how often there was one is counted."""
        self.counts["effects"] += 1
        if finding.identity not in self._effects:
            self._effects.add(finding.identity)
            self.findings.append(finding)

    def diverges(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.excluded_keys.add(finding.key)


class WrongAllowance(Exception):
    """A file of intended changes cannot be used. The message is a sentence."""


@dataclass(frozen=True)
class Allowance:
    """A change somebody meant, and why. What it does not name may be anything."""

    reason: str
    service: str = ""
    type: str = ""
    """Of the input or record."""
    table: str = ""
    column: str = ""
    handler: str = ""
    """A line that it comes through, as verify prints it."""
    event: str = ""
    """The id of the input or record, or of the fact that wrote a row."""
    events: tuple[str, ...] = ()
    """Any one of these."""
    since: datetime | None = None
    until: datetime | None = None
    """Decided then; what has no time, as a row, is not meant."""
    at_most: int = 1000
    """So many; whatever is more is found."""

    def allows(self, finding: Finding) -> bool:
        named = ("service", "type", "table", "column", "event")
        return (
            finding.kind != "incomplete"
            and all(getattr(self, name) in ("", getattr(finding, name)) for name in named)
            and (not self.events or finding.event in self.events)
            and self.handler in ("", finding.handler, *finding.lines)
            and self._is_in_time(finding.time)
        )

    def _is_in_time(self, text: str) -> bool:
        if self.since is None and self.until is None:
            return True
        if not text:
            return False
        time = datetime.fromisoformat(text)
        return (self.since is None or self.since <= time) and (self.until is None or time <= self.until)


def read_allowances(path: Path) -> list[Allowance]:
    """Reads tables `[[change]]`, each with a reason and at least one of service, type, table and column.

    Raises `WrongAllowance`.
    """
    try:
        told = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WrongAllowance(f"{path} cannot be read: {error}.") from error
    if unknown := set(told) - {"change"}:
        raise WrongAllowance(f"{path} may hold [[change]] only, not {', '.join(sorted(unknown))}.")
    changes = told.get("change", [])
    if not isinstance(changes, list):
        raise WrongAllowance(f"{path} may hold [[change]] only, in two brackets.")
    return [_allowance(path, number, change) for number, change in enumerate(changes, start=1)]


def _allowance(path: Path, number: int, change: Any) -> Allowance:
    where, known = f"{path}, change {number}", {field.name for field in fields(Allowance)}
    if not isinstance(change, dict):
        raise WrongAllowance(f"{where}: it is no table.")
    if unknown := set(change) - known:
        raise WrongAllowance(
            f"{where}: {', '.join(sorted(unknown))} is not known; choose from {', '.join(sorted(known))}."
        )
    if wrong := sorted(name for name, value in change.items() if not _is_right(name, value)):
        must = _MUST_BE.get(wrong[0], "text, and not empty")
        raise WrongAllowance(f"{where}: {', '.join(wrong)} must be {must}.")
    if "reason" not in change or not set(change) - {"reason", "at_most"}:
        raise WrongAllowance(
            f"{where}: give a reason and at least one of service, type, table, column, handler, event, "
            "events, since and until."
        )
    return Allowance(**change | {"events": tuple(change.get("events", ()))})


_MUST_BE = {
    "at_most": "a number above 0",
    "since": "a time with its zone",
    "until": "a time with its zone",
    "events": "a list of texts",
}


def _is_right(name: str, value: object) -> bool:
    match name:
        case "at_most":
            return type(value) is int and value > 0
        case "since" | "until":
            return isinstance(value, datetime) and value.tzinfo is not None
        case "events":
            return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
    return isinstance(value, str) and bool(value.strip())
