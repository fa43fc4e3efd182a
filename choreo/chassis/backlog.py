"""A service's backlog: how much of it is unfinished, and since when. For metrics and for `choreo doctor`."""

from dataclasses import dataclass
from datetime import datetime

from choreo.chassis.database.connection import Connection
from choreo.chassis.service import Waiting
from choreo.chassis.transaction import outbox, parked

CountSince = tuple[int, datetime | None]
"""How many, and since when the oldest."""


@dataclass(frozen=True, slots=True)
class Backlog:
    unpublished: CountSince
    parked: CountSince
    waiting: CountSince


async def read_backlog(conn: Connection, waiting: Waiting | None) -> Backlog:
    return Backlog(
        unpublished=await outbox.backlog(conn),
        parked=await parked.backlog(conn),
        waiting=await _count_since(conn, waiting.query) if waiting else (0, None),
    )


async def _count_since(conn: Connection, query: str) -> CountSince:
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return row[0], row[1]
