"""A service in memory that remembers who wrote each row."""

from dataclasses import dataclass, field
from uuid import UUID

from choreo.chassis.service import Service
from choreo.replay.engine.in_memory_service import Put, Row, S, Shadow, Taken


@dataclass(slots=True)
class Written:
    """Who wrote a row: facts by id and type."""

    made: tuple[UUID, str]
    changed: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    """By column, for those that have another value since."""

    def last(self, column: str) -> tuple[UUID, str]:
        return self.changed.get(column, self.made)


class Remembering(Shadow[S]):
    def __init__(self, service: Service[S]) -> None:
        super().__init__(service)
        self.written: dict[Row, Written] = {}

    def keep(self, key: str, taken: Taken[S]) -> list[Put[S]]:
        puts = super().keep(key, taken)
        for mapping, old, row, event, _ in puts:
            place, who = (mapping.field, mapping.name_of(row)), (event.id, event.type)
            if old is None:
                self.written[place] = Written(who)
                continue
            for column in map(str, mapping.table.columns.keys()):
                if getattr(row, column) != getattr(old, column):
                    self.written[place].changed[column] = who
        return puts
