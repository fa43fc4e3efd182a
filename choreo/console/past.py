"""A table as it was, made of the dictionary that `read_past` returns: what is lit, and what leads on.

Links are made by the pages; here are the moments they lead to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_Change = tuple[int, int, Mapping[str, Any]]
"""Its place in the history, how many inputs there are up to it, and itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    column: str
    value: Any
    lit: bool
    """The latest input gave it this value."""
    change: int | None
    """The place, in the history, of what gave it this value."""


@dataclass(frozen=True, slots=True)
class Line:
    primary_key: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Steps:
    """Where it goes on from here: ids of inputs."""

    earlier: str | None
    later: str | None
    earlier_change: str | None
    """Of the row that is selected."""
    later_change: str | None


class Past:
    def __init__(self, view: Mapping[str, Any]) -> None:
        self._view = view
        self._position = {one["id"]: number for number, one in enumerate(view["inputs"], start=1)}
        self._changes = [
            (number, self._position[one["cause"]["id"]], one) for number, one in enumerate(view["history"])
        ]
        self._by_row: dict[tuple[str, str], list[_Change]] = {}
        for change in self._changes:
            self._by_row.setdefault((change[2]["table"], change[2]["primary_key"]), []).append(change)

    @property
    def input(self) -> Mapping[str, Any] | None:
        """The latest that this moment takes in."""
        position = self._view["position"]
        return self._view["inputs"][position - 1] if position else None

    @cached_property
    def lines(self) -> Sequence[Line]:
        """The rows of the table, those last changed first."""
        found = [self._line(one["row"]) for one in self._view["tables"].get(self._view["table"], ())]
        return sorted(found, key=lambda line: max(cell.change or 0 for cell in line.cells), reverse=True)

    @cached_property
    def selected(self) -> str | None:
        """The row that was chosen, or else the one that was changed last."""
        lines = self.lines
        return self._view["row"] or (lines[0].primary_key if lines else None)

    @property
    def changes(self) -> Sequence[tuple[int, bool, Mapping[str, Any]]]:
        """Of the selected row, the latest first: place in the history, whether it lies before, and itself."""
        return [(number, at <= self._view["position"], one) for number, at, one in reversed(self._of_row())]

    @property
    def changed_tables(self) -> Sequence[str]:
        """By the latest input."""
        return [one["table"] for _, at, one in self._changes if at == self._view["position"]]

    @property
    def latest_table(self) -> str:
        """The one that the latest input changed, or else the first."""
        return str([*self.changed_tables, *self._view["tables"]][0])

    @property
    def steps(self) -> Steps:
        inputs, position = self._view["inputs"], self._view["position"]
        changed = [at for _, at, _ in self._of_row()]
        before = [at for at in changed if at < position]
        after = [at for at in changed if at > position]

        def id(position: int | None) -> str | None:
            return inputs[position - 1]["id"] if position and position <= len(inputs) else None

        return Steps(
            id(position - 1),
            id(position + 1),
            id(max(before, default=None)),
            id(min(after, default=None)),
        )

    def _line(self, row: Mapping[str, Any]) -> Line:
        primary_key = ",".join(str(row[name]) for name in self._view["primary_keys"][self._view["table"]])
        changed: dict[str, tuple[int, int]] = {}
        for number, at, one in self._of_row(primary_key):
            if at <= self._view["position"]:
                changed |= dict.fromkeys(one["columns"], (number, at))
        cells = []
        for column, value in row.items():
            change, at = changed.get(column, (None, 0))
            cells.append(Cell(column, value, change is not None and at == self._view["position"], change))
        return Line(primary_key, cells)

    def _of_row(self, primary_key: str | None = None) -> Sequence[_Change]:
        return self._by_row.get((self._view["table"], primary_key or self.selected or ""), [])
