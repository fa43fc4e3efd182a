"""What came of many worlds: figures, what they have come by, and what none of them has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any, Self

from choreo.simulation.awaits import all_awaits
from choreo.simulation.plan import FAULTS
from choreo.simulation.world import Outcome, play

_AND = " & "


@dataclass
class Summary:
    schedules: int = 0
    steps: int = 0
    faults: int = 0
    wall_seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """By kind of fault, how many worlds somebody met it in."""
    coincided: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Two kinds of faults, and how many worlds had both."""
    killed_at: Counter[str] = field(default_factory=Counter)
    """By await, in how many worlds a process was there when it was killed."""
    waited_at: set[str] = field(default_factory=set)
    """Awaits at which a process was at any time, in those worlds where that is looked at."""
    carried_out: set[str] = field(default_factory=set)
    """Statements."""
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    """A statement that waited for another transaction, and the last one of that: in how many worlds."""
    broken: list[Outcome] = field(default_factory=list)

    @property
    def schedules_per_second(self) -> float:
        return self.schedules / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.wall_seconds if self.wall_seconds else 0.0

    def count(self, outcome: Outcome) -> None:
        """One more world, but for the time."""
        self.schedules += 1
        self.steps += outcome.steps
        self.faults += outcome.faults
        self.kinds.update(outcome.befell)
        self.coincided.update(combinations(sorted(outcome.befell), 2))
        self.killed_at.update(outcome.killed_at)
        self.waited_at |= outcome.waited_at
        self.carried_out |= outcome.carried_out
        self.met.update(outcome.met)
        if outcome.violations:
            self.broken.append(outcome)

    def add(self, other: "Summary") -> None:
        """What came of further ones, but for the time."""
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waited_at |= other.waited_at
        self.carried_out |= other.carried_out

    # -- what was not reached --------------------------------------------------------------------

    def coverage(self) -> "Sequence[Reached]":
        waited = self.waited_at | set(self.killed_at)
        pairs = [_AND.join(pair) for pair in combinations(sorted(FAULTS), 2)]
        waiters, others = {one for one, _ in self.met}, {other for _, other in self.met}
        return [
            Reached(
                "killed_at",
                "A process was killed at {} awaits where somebody waited",
                waited,
                set(self.killed_at),
            ),
            Reached(
                "waited_at",
                "Somebody waited at {} awaits of the code that is played",
                set(all_awaits()),
                waited,
            ),
            Reached("faults", "Somebody met {} kinds of faults", set(FAULTS), set(self.kinds)),
            Reached(
                "pairs",
                "One world met both of {} pairs of kinds",
                set(pairs),
                {*map(_AND.join, self.coincided)},
            ),
            Reached("waiting", "{} statements waited for another transaction", self.carried_out, waiters),
            Reached("waited_for", "{} statements were waited for", self.carried_out, others),
        ]

    # -- kept in a file --------------------------------------------------------------------------

    def to_told(self) -> dict[str, Any]:
        """For JSON: of broken worlds the seeds alone."""
        told: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        told["broken"] = [outcome.seed for outcome in self.broken]
        for name in ("coincided", "met"):
            told[name] = {_AND.join(pair): worlds for pair, worlds in sorted(told[name].items())}
        for name in ("waited_at", "carried_out"):
            told[name] = sorted(told[name])
        return told

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> Self:
        """Broken worlds are played again."""
        pairs = {
            name: Counter(
                {
                    (one, other): worlds
                    for pair, worlds in told[name].items()
                    for one, other in [pair.split(_AND)]
                }
            )
            for name in ("coincided", "met")
        }
        sets = {name: set(told[name]) for name in ("waited_at", "carried_out")}
        counters = {name: Counter(told[name]) for name in ("kinds", "killed_at")}
        broken = [play(seed) for seed in told["broken"]]
        return cls(**{**told, **pairs, **sets, **counters, "broken": broken})


_ADDED = "schedules", "steps", "faults", "kinds", "coincided", "killed_at", "met", "broken"


@dataclass(frozen=True)
class Reached:
    """Of what there is, how much was reached."""

    name: str
    sentence: str
    """With braces where the numbers belong."""
    there: set[str]
    reached: set[str]

    @property
    def missed(self) -> list[str]:
        return sorted(self.there - self.reached)

    def line(self, most: int) -> str:
        """With so many of what was not reached, at most."""
        missed = self.missed
        told = self.sentence.format(f"{len(self.there) - len(missed)} of {len(self.there)}")
        more = f" and {len(missed) - most} more" if len(missed) > most else ""
        return f"{told}. Not: {', '.join(missed[:most])}{more}." if missed else f"{told}."
