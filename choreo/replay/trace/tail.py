"""A journal, followed at its end: what was written since the last look.

No index is in the order of writing, so blocks of the table are read, from where all before them is known:
that is where it ended at an earlier look of which no transaction is open any more, less some blocks that may
have had room left.
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection

_BLOCKS = 64
"""Of a table, read in one query, and at every look again: half a megabyte."""
_MOST_BLOCKS = 1024
"""So many new ones at most are read in a look."""

_MOMENT = """/* tail.moment: the journal's size in blocks, and which transactions are open */
SELECT (pg_relation_size('journal') / current_setting('block_size')::int)::int AS end, now() AS at,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_open,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next"""

_ROWS = """/* tail.rows: in some blocks of the journal */
SELECT id, correlation_id AS flow, decided_at, outcome, (ctid::text::point)[0]::int AS block
FROM journal WHERE ctid >= %(begin)s::tid AND ctid < %(end)s::tid"""


@dataclass(frozen=True, slots=True)
class Written:
    """A row of a journal. One that is written anew, as what was parked is, is another."""

    id: UUID
    flow: UUID | None
    decided_at: datetime
    outcome: str
    block: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Moment:
    end: int
    at: datetime
    oldest_open: int
    next: int


class Tail:
    """Of one journal, asked through whichever session; each look in a transaction of its own."""

    def __init__(self, since: datetime) -> None:
        """Begins with what was decided then."""
        self._since = since
        self.until = since
        """What was decided before this was returned, unless its transaction is still open or just over."""
        self.is_at_the_end = False
        """Whether the last look left nothing for the next."""
        self._begin: int | None = None
        self._end = 0
        self._before: deque[_Moment] = deque()
        self._seen: set[Written] = set()

    async def look(self, conn: Connection) -> list[Written]:
        """Returns some of what is new, once."""
        async with conn.cursor(row_factory=class_row(_Moment)) as cursor:
            await cursor.execute(_MOMENT.encode())
            moment = await cursor.fetchone()
            assert moment is not None
        begin = await self._first(conn, moment.end) if self._begin is None else self._begin
        end = min(moment.end, max(begin, self._end) + _MOST_BLOCKS)
        found = [row async for rows in _read(conn, begin, end) for row in rows]
        new = [row for row in found if row not in self._seen and self._is_wanted(row)]
        self._end, self.is_at_the_end = end, end == moment.end
        times = (row.decided_at for row in found)
        self.until = moment.at if self.is_at_the_end else max(times, default=self.until)
        self._before.append(replace(moment, end=end))
        while self._before and self._before[0].next <= moment.oldest_open:
            begin = max(0, self._before.popleft().end - _BLOCKS)
        self._begin, self._seen = begin, {row for row in found if row.block >= begin}
        return new

    def _is_wanted(self, row: Written) -> bool:
        """What is given up keeps the time at which it was parked."""
        return row.decided_at >= self._since or row.outcome == "dropped"

    async def _first(self, conn: Connection, size: int) -> int:
        """Returns the first block that is of interest, looking for it from the end."""
        begin = size
        while begin > 0:
            begin = max(0, begin - _BLOCKS)
            async for rows in _read(conn, begin, begin + _BLOCKS):
                if rows and max(row.decided_at for row in rows) < self._since:
                    return begin
        return 0


async def _read(conn: Connection, begin: int, end: int) -> AsyncIterator[list[Written]]:
    async with conn.cursor(row_factory=class_row(Written)) as cursor:
        for block in range(begin, end, _BLOCKS):
            values = {"begin": f"({block},0)", "end": f"({min(end, block + _BLOCKS)},0)"}
            await cursor.execute(_ROWS.encode(), values)
            yield await cursor.fetchall()
