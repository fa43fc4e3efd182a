"""How much of a service is unfinished, and since when: for metrics and for `choreo doctor`."""

from dataclasses import dataclass
from datetime import datetime

from choreo.chassis.database.connection import Connection
from choreo.chassis.service import Waiting
from choreo.chassis.transaction import outbox, parked

Depth = tuple[int, datetime | None]
"""How many, and since when the oldest."""


@dataclass(frozen=True, slots=True)
class Depths:
    unpublished: Depth
    parked: Depth
    waiting: Depth


async def read_depths(conn: Connection, waiting: Waiting | None) -> Depths:
    return Depths(
        unpublished=await outbox.depth(conn),
        parked=await parked.depth(conn),
        waiting=await _depth(conn, waiting.query) if waiting else (0, None),
    )


async def _depth(conn: Connection, query: str) -> Depth:
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return row[0], row[1]
