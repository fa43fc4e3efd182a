"""A journal, followed at its end: what was written since the last look.

A row gets its position before its transaction commits. So each look reads again what lies behind the end of
an earlier one, of which no transaction is open any more.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from choreo.chassis.database.connection import Connection

_MOST = 20_000
"""So many new rows at most are read in a look."""
_LATER_WRITTEN = timedelta(minutes=1)
"""A row is written some time after it is decided, and clocks differ: so much earlier it begins to look."""

_OPEN = """/* tail.open: which transactions are */
SELECT now(), pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint"""

_ROWS = """/* tail.rows: of the journal, on from a position */
SELECT id, correlation_id, decided_at, outcome, position
FROM journal WHERE position >= %s ORDER BY position LIMIT %s"""

_LAST = """/* tail.last: decided before a time; what is given up keeps the time at which it was parked */
SELECT position FROM journal WHERE decided_at < %s AND outcome <> 'dropped' ORDER BY position DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Written:
    """A row of a journal. One that is written anew, as what was parked is, has another position."""

    id: UUID
    flow: UUID | None
    decided_at: datetime
    outcome: str
    position: int


@dataclass(frozen=True, slots=True)
class _Look:
    end: int
    """It has read what was committed before this position."""
    next_transaction: int


class Tail:
    """Of one journal, asked through whichever session; each look in a transaction that sees one moment."""

    def __init__(self, since: datetime) -> None:
        """Begins with what was decided then."""
        self._since = since
        self.until = since
        """What was decided before this was returned, unless its transaction is still open or just over."""
        self.is_at_the_end = False
        """Whether the last look left nothing for the next."""
        self._begin: int | None = None
        self._before: deque[_Look] = deque()
        self._seen: set[Written] = set()

    async def look(self, conn: Connection) -> list[Written]:
        """Returns some of what is new, once."""
        begin = await self._first(conn) if self._begin is None else self._begin
        moment = await (await conn.execute(_OPEN.encode())).fetchone()
        assert moment is not None
        now, oldest_open, next_transaction = moment
        most = len(self._seen) + _MOST
        rows = await (await conn.execute(_ROWS.encode(), [begin, most])).fetchall()
        found = [Written(*row) for row in rows]
        new = [row for row in found if row not in self._seen and self._is_wanted(row)]
        self.is_at_the_end = len(found) < most
        self.until = now if self.is_at_the_end else max(row.decided_at for row in found)
        self._before.append(_Look(found[-1].position + 1 if found else begin, next_transaction))
        while self._before and self._before[0].next_transaction <= oldest_open:
            begin = self._before.popleft().end
        self._begin, self._seen = begin, {row for row in found if row.position >= begin}
        return new

    def _is_wanted(self, row: Written) -> bool:
        return row.decided_at >= self._since or row.outcome == "dropped"

    async def _first(self, conn: Connection) -> int:
        """Returns the first position that is of interest."""
        row = await (await conn.execute(_LAST.encode(), [self._since - _LATER_WRITTEN])).fetchone()
        return row[0] + 1 if row else 0
