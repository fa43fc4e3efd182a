"""Customers who were there before a world begins: they have registered and paid in, and all that is handled.

To play that takes as long as to play an order. So it is played once, where nothing befalls anybody, and most
worlds begin with what it left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from choreo.chaos.history import Request
from choreo.chassis.transaction.positions import TopicPartition
from choreo.simulation.database import Database, Name
from choreo.simulation.log import Group, Log, Partition


@dataclass(frozen=True)
class Past:
    """What a world has left. It is given to many others, and stays what it is."""

    rows: Mapping[str, Mapping[str, Mapping[Name, Any]]]
    """By service and table."""
    numbers: Mapping[str, Mapping[str, int]]
    """By service and table: the last that was drawn."""
    partitions: Mapping[TopicPartition, Partition]
    producers: int
    committed: Mapping[str, Mapping[TopicPartition, int]]
    """By group."""
    requests: Sequence[Request]
    mails: Sequence[tuple[str, str]]

    @classmethod
    def left_by(
        cls,
        databases: Mapping[str, Database],
        log: Log,
        groups: Mapping[str, Group],
        requests: Sequence[Request],
        mails: Sequence[tuple[str, str]],
    ) -> Self:
        return cls(
            rows={name: database.committed for name, database in databases.items()},
            numbers={name: database.numbers for name, database in databases.items()},
            partitions=log.partitions,
            producers=log.producers,
            committed={name: group.committed for name, group in groups.items()},
            requests=requests,
            mails=mails,
        )

    def give(self, databases: Mapping[str, Database], log: Log, groups: Mapping[str, Group]) -> None:
        """Rows, and what stands in the log, are never changed, but replaced."""
        for name, database in databases.items():
            database.numbers.update(self.numbers[name])
            for table, rows in self.rows[name].items():
                database.committed[table].update(rows)
                if mapping := database.mapping_of.get(table):
                    for row in rows.values():
                        database.memory.put(mapping, row)
        for place, partition in self.partitions.items():
            log.partitions[place].begin_as(partition)
        log.producers = self.producers
        for name, group in groups.items():
            group.committed.update(self.committed[name])
