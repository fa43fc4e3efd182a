"""What a verification finds, and which of it somebody meant to change."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Kind = Literal["step", "closure", "state", "incomplete"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was recorded. Values are what JSON can hold."""

    kind: Kind
    """step: another decision; closure: a record nobody decided or a decision on no topic; state: another row;
    incomplete: something is missing, so that nothing can be said."""
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
    step: str = ""
    """A digest of all that today's code decides for this input: what a second replay has to agree with."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What a second replay has to find as well."""
        return (self.kind, self.service, self.key, self.event, self.table, self.column)


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

    def allows(self, finding: Finding) -> bool:
        named = ("service", "type", "table", "column")
        return finding.kind != "incomplete" and all(
            getattr(self, name) in ("", getattr(finding, name)) for name in named
        )


def read_allowances(path: Path) -> list[Allowance]:
    """Tables `[[change]]`, each with a reason and at least one of service, type, table and column.

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
    if wrong := [name for name, value in change.items() if not (isinstance(value, str) and value.strip())]:
        raise WrongAllowance(f"{where}: {', '.join(sorted(wrong))} must be text, and not empty.")
    if "reason" not in change or len(change) < 2:
        raise WrongAllowance(f"{where}: give a reason and at least one of service, type, table and column.")
    return Allowance(**change)


@dataclass
class Report:
    """The whole of a verification."""

    findings: list[Finding] = field(default_factory=list)
    unstable: list[Finding] = field(default_factory=list)
    """Those of which the second replay found something else, or nothing; or which it alone found."""
    allowed: list[tuple[Finding, Allowance]] = field(default_factory=list)
    idle: list[Allowance] = field(default_factory=list)
    """Those that match nothing."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was looked at."""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 match, 1 changed, 2 not deterministic, 3 incomplete."""
        if self.unstable:
            return 2
        if any(finding.kind != "incomplete" for finding in self.findings):
            return 1
        return 3 if self.findings else 0

    def allow(self, allowances: Sequence[Allowance]) -> None:
        """Takes what was meant out of the findings."""
        left = []
        for finding in self.findings:
            meant = next((one for one in allowances if one.allows(finding)), None)
            if meant:
                self.allowed.append((finding, meant))
            else:
                left.append(finding)
        self.findings = left
        used = {id(allowance) for _, allowance in self.allowed}
        self.idle = [allowance for allowance in allowances if id(allowance) not in used]

    def compare(self, again: Iterable[Finding]) -> None:
        """With what a second replay of the same stream found."""
        mine = {finding.identity: finding for finding in self.findings}
        other = {finding.identity: finding for finding in again}
        self.unstable = [
            finding
            for identity, finding in (other | mine).items()
            if identity not in mine or identity not in other or not _agree(mine[identity], other[identity])
        ]
        unstable = {finding.identity for finding in self.unstable}
        self.findings = [finding for finding in self.findings if finding.identity not in unstable]


def _agree(one: Finding, other: Finding) -> bool:
    return (one.got, one.step) == (other.got, other.step)
