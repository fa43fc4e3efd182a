"""Events that need a person, and the later events of their keys, which queue behind them."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from traceback import extract_tb
from uuid import UUID

import orjson
from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.chassis.database.rows import insert
from choreo.chassis.database.tables import parked
from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction.inputs import FactTypes, Heard, read
from choreo.message.codec import Headers, Record, Undecodable, UnknownType
from choreo.message.envelope import Event
from choreo.message.fact import Fact

_BLOCKED = Statement("""/* parked.blocked: the keys whose later events have to queue */
SELECT DISTINCT key FROM parked WHERE key = ANY($1::text[])""")

_BACKLOG = """/* parked.backlog: how many events are parked, and since when */
SELECT count(*), min(parked_at) FROM parked"""

_COLUMNS = """id, key, type, topic, partition, "offset", record_key, record_value, record_headers,
reason, error, place, parked_at"""

_ALL = f"""/* parked.all */ SELECT {_COLUMNS} FROM parked ORDER BY position"""

_OF_KEY = f"""/* parked.of_key: the oldest first */
SELECT {_COLUMNS} FROM parked WHERE key = %s ORDER BY position"""

_SAY_WHY = """/* parked.say_why: it was tried again and failed again */
UPDATE parked SET reason = %s, error = %s, place = %s WHERE id = %s"""

_REMOVE = """/* parked.remove */ DELETE FROM parked WHERE id = %s"""


@dataclass(frozen=True, slots=True)
class Parked:
    id: UUID
    key: str
    type: str | None
    topic: str
    partition: int
    offset: int
    record_key: bytes | None
    record_value: bytes | None
    record_headers: bytes
    reason: str
    """`undecodable`, `handler` (it raised), `database` (it rejected it), `queued` (behind another)."""
    error: str
    place: str | None
    """File and line that raised."""
    parked_at: datetime

    @property
    def record(self) -> Record:
        return Record(self.record_key, self.record_value, _unpacked(self.record_headers))

    def event(self, consumes: FactTypes) -> Event[Fact] | None:
        """As today's code reads it; None where that does not hear it. Raises `Undecodable`."""
        try:
            event, error = read(self.record, consumes)
        except UnknownType:
            return None
        if error is not None:
            raise Undecodable(error)
        if event is not None and event.key != self.key:
            raise Undecodable(f"it is of key {event.key}, and was parked under {self.key}")
        return event

    def heard(self, event: Event[Fact]) -> Heard:
        """As it came from Kafka."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return Heard(self.topic, self.partition, self.offset, self.record, event, None, self.parked_at, done)


def park(heard: Heard, reason: str, error: BaseException | str, now: datetime) -> Parked:
    return Parked(
        id=heard.id,
        key=heard.key,
        type=heard.event.type if heard.event else None,
        topic=heard.topic,
        partition=heard.partition,
        offset=heard.offset,
        record_key=heard.record.key,
        record_value=heard.record.value,
        record_headers=_packed(heard.record.headers),
        reason=reason,
        error=_text(error),
        place=_place(error),
        parked_at=now,
    )


def blocked(trip: RoundTrip, keys: Collection[str]) -> Later[set[str]]:
    if not keys:
        return set
    rows = trip.add(_BLOCKED, list(keys))
    return lambda: {key for (key,) in rows}


async def all(conn: Connection) -> list[Parked]:
    """In the order of position: per key the one that needs a person first, then what queues behind it."""
    return await _read(conn, _ALL)


async def of_key(conn: Connection, key: str) -> list[Parked]:
    return await _read(conn, _OF_KEY, [key])


async def _read(conn: Connection, query: str, values: Sequence[object] = ()) -> list[Parked]:
    async with conn.cursor(row_factory=class_row(Parked)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall()


def add(trip: RoundTrip, rows: Sequence[Parked]) -> None:
    """Inside the kernel's transaction."""
    insert(trip, parked, rows)


async def say_why(conn: Connection, id: UUID, reason: str, error: BaseException | str) -> None:
    """It is parked still, and now for this."""
    await conn.execute(_SAY_WHY, [reason, _text(error), _place(error), id])


async def remove(conn: Connection, id: UUID) -> None:
    """Runs inside the transaction that handles the event or gives it up."""
    await conn.execute(_REMOVE, [id])


async def backlog(conn: Connection) -> tuple[int, datetime | None]:
    """How many events are parked, and since when the oldest of them."""
    row = await (await conn.execute(_BACKLOG)).fetchone()
    assert row is not None
    return row[0], row[1]


def _text(error: BaseException | str) -> str:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text.replace("\0", "\\0")


def _place(error: BaseException | str) -> str | None:
    """File and line that raised: the service's own, whatever it called there."""
    if isinstance(error, str):
        return None
    if own := raised_at(error):
        return own
    frames = extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _packed(headers: Headers) -> bytes:
    """Any bytes at all, and those headers that have no value."""
    return orjson.dumps(
        [(name, None if value is None else value.decode("latin-1")) for name, value in headers]
    )


def _unpacked(packed: bytes) -> Headers:
    return [
        (name, None if value is None else value.encode("latin-1")) for name, value in orjson.loads(packed)
    ]
