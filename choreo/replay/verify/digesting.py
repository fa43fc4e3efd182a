"""A stream while it is recorded: what each step makes of rows is noted beside it, in digests.

It is replayed as `choreo.replay.verify.verify` does, in the order in which it comes. The rows in the tables
follow from the steps; those that do not are noted by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Table

from choreo.chassis.service import Service
from choreo.errors import HandlerMisbehaves
from choreo.replay.sources.recording import ExpectedRows
from choreo.replay.sources.records import Cut, Item, JournalEntry
from choreo.replay.sources.rows import values
from choreo.replay.verify.verifier import Verifier
from choreo.replay.verify.verify import Stream


class Digesting:
    def __init__(self, cut: Cut, services: Mapping[str, Service[Any]]) -> None:
        self.cut = replace(
            cut,
            columns={
                name: {
                    str(mapping.table.name): [str(column.name) for column in mapping.table.columns]
                    for mapping in service.store.mappings
                }
                for name, service in services.items()
            },
        )
        self._verifiers = {
            name: Verifier(service, cut, 1.0, digests=True) for name, service in services.items()
        }
        self._stream = Stream(cut, self._verifiers)
        self._ended = False
        """A handler came to no end: nothing can be said of what comes after."""

    def add(self, items: Sequence[Item]) -> list[Item]:
        """Returns them with their digests."""
        return [self._with_digest(item) for item in items]

    def _with_digest(self, item: Item) -> Item:
        if not self._ended:
            try:
                self._stream.take([item])
            except HandlerMisbehaves:
                self._ended = True
        if self._ended or not isinstance(item, JournalEntry) or item.service not in self._verifiers:
            return item
        return replace(item, wrote=self._verifiers[item.service].wrote)

    def rows_of(self, service: str, table: Table) -> ExpectedRows:
        """Returns the rows that follow from the steps, to be held against the table's."""
        in_memory = self._verifiers[service].in_memory
        mapping = next(one for one in in_memory.service.store.mappings if one.table is table)
        rows = in_memory.memory.rows(mapping)
        return ExpectedRows(table, {name: values(table, row) for name, row in rows.items()})
