"""What the judge of chaos is given: rows, records, mails and requests, as they would be read from outside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Table

from choreo.chaos.history import History, Request, Row
from choreo.chassis.database import tables
from choreo.simulation.database import Database
from choreo.simulation.log import Log

_CHASSIS = (tables.keys, tables.positions, tables.journal, tables.outbox, tables.parked)


def collected(
    databases: Mapping[str, Database],
    log: Log,
    requests: Sequence[Request],
    mails: Sequence[tuple[str, str]],
) -> History:
    ends = {place: log.end(place) for place in log.places}
    found = {name: dict(_tables(database)) for name, database in databases.items()}
    return History(log.shown(), ends, found, requests, mails)


def _tables(database: Database) -> Iterator[tuple[str, list[Row]]]:
    for table in (*_CHASSIS, *(mapping.table for mapping in database.states.mappings)):
        yield table.name, [_row(table, row) for row in database.rows(table.name)]


def _row(table: Table, row: Any) -> Row:
    return {column.name: _shown(getattr(row, column.name, None)) for column in table.columns}


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value
