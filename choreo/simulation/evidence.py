"""What the judge of chaos is given: rows, records, mails and requests, as they would be read from outside."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
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
    return History(log.shown(), ends, found, requests, mails, ends)


def _tables(database: Database) -> Iterator[tuple[str, list[Row]]]:
    for table in (*_CHASSIS, *(mapping.table for mapping in database.states.mappings)):
        columns = _columns(table)
        yield table.name, [_row(columns, row) for row in database.rows(table.name)]


@cache
def _columns(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def _row(columns: Sequence[str], row: Any) -> Row:
    shown = {column: getattr(row, column, None) for column in columns}
    return {column: str(value) if type(value) is UUID else value for column, value in shown.items()}
