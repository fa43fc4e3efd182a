"""A service in memory that remembers who wrote each row."""

from dataclasses import dataclass, field
from uuid import UUID

from choreo.chassis.service import Service
from choreo.replay.engine.in_memory_service import InMemoryService, Put, Row, S, Taken


@dataclass(slots=True)
class RowOrigin:
    """Who wrote a row: facts by id and type."""

    made: tuple[UUID, str]
    changed: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    """By column, for those that have another value since."""

    def last(self, column: str) -> tuple[UUID, str]:
        return self.changed.get(column, self.made)


class InMemoryServiceWithOrigins(InMemoryService[S]):
    def __init__(self, service: Service[S]) -> None:
        super().__init__(service)
        self.row_origins: dict[Row, RowOrigin] = {}

    def keep(self, key: str, taken: Taken[S]) -> list[Put[S]]:
        puts = super().keep(key, taken)
        for mapping, old, row, event, _ in puts:
            at, who = (mapping.field, mapping.name_of(row)), (event.id, event.type)
            if old is None:
                self.row_origins[at] = RowOrigin(who)
                continue
            for column in map(str, mapping.table.columns.keys()):
                if getattr(row, column) != getattr(old, column):
                    self.row_origins[at].changed[column] = who
        return puts
