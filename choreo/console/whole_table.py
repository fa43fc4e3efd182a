"""`choreo state` of a whole table for a page: all of the log is folded for it, so a person begins it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from choreo.console.job import Job

SHOWN = 200
"""Rows: of one key they are asked for by it."""


@dataclass
class WholeTable(Job):
    service: str = ""
    table: str = ""
    moment: str = ""

    @property
    def words(self) -> Sequence[str]:
        at = f"--at={self.moment}"  # whatever it begins with
        table = (f"--table={self.table}", f"--limit={SHOWN}")
        return ("choreo", "state", self.service, at, *table, *(("--", *self.file) if self.file else ()))

    def of(self, service: str, table: str) -> dict[str, Any]:
        """As JSON has it; nothing of another table."""
        told = self.as_dict() if (service, table) == (self.service, self.table) else {"runs": False}
        return told | {"busy": self.runs and not told["runs"]}

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"moment": self.moment, "state": self.printed}
