"""Events that need a person, and the later events of their keys, which queue behind them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from traceback import extract_tb
from uuid import UUID

import orjson

from chassis.db import Connection, insert
from chassis.inputs import Heard
from chassis.tables import parked

_BLOCKED = """/* parked.blocked: the keys whose later events have to queue */
SELECT DISTINCT key FROM parked WHERE key = ANY(%b::text[])"""

_DEPTH = """/* parked.depth: how many events are parked, and since when */
SELECT count(*), min(parked_at) FROM parked"""


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
    """`undecodable`, `handler` (it raised), `database` (it refused), `queued` (behind another)."""
    error: str
    place: str | None
    """File and line that raised."""
    parked_at: datetime


def park(heard: Heard, reason: str, error: BaseException | str, now: datetime) -> Parked:
    headers = [(name, value.decode("latin-1")) for name, value in heard.record.headers]
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return Parked(
        id=heard.id,
        key=heard.key,
        type=heard.event.type if heard.event else None,
        topic=heard.topic,
        partition=heard.partition,
        offset=heard.offset,
        record_key=heard.record.key,
        record_value=heard.record.value,
        record_headers=orjson.dumps(headers),
        reason=reason,
        error=text.replace("\0", "\\0"),
        place=None if isinstance(error, str) else _place(error),
        parked_at=now,
    )


def _place(error: BaseException) -> str | None:
    frames = extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


async def blocked(conn: Connection, keys: Collection[str]) -> set[str]:
    rows = await (await conn.execute(_BLOCKED, [list(keys)])).fetchall()
    return {key for (key,) in rows}


async def add(conn: Connection, rows: Sequence[Parked]) -> None:
    """Runs inside the kernel's transaction."""
    await insert(conn, parked, rows)


async def depth(conn: Connection) -> tuple[int, datetime | None]:
    """How many events are parked, and since when the oldest of them."""
    row = await (await conn.execute(_DEPTH)).fetchone()
    assert row is not None
    return row[0], row[1]
