"""Which mails this process has in hand: each is leased while it is mailed, by the database's clock.

What becomes of them is gathered and told to the database with the next look for more, in one round trip. A
lease that is left behind does no harm: what is not pending is not mailed.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import raw_connection
from choreo.chassis.database.round_trip import RoundTrip, Statement
from choreo.message.envelope import Cause

AT_ONCE = 500
"""So many that nobody has tried are taken at most; the next when most of them are mailed."""
AGAIN_AT_ONCE = 100
DATABASE_TIMEOUT_SECONDS = 5.0
LEASE_SECONDS = 10.0
"""So long waits what was being mailed when its mailer died. Renewed while it is alive."""
MAIL_TIMEOUT_SECONDS = 10.0
"""For a mail that is tried for the first time. Each time it gets so much more, up to the longest."""
LONGEST_MAIL_TIMEOUT_SECONDS = 25.0
_LONGEST_PAUSE_SECONDS = 300.0

_WHAT = "id, user_id, email, subject, text, event_id, correlation_id, trace_id"

_TAKE = Statement(f"""/* leases.take: pending, the address is known, and nobody has tried; the oldest first */
WITH due AS MATERIALIZED (
    SELECT {_WHAT}, created_at FROM notifications JOIN recipients USING (user_id)
    WHERE status = 'pending' AND NOT EXISTS (SELECT FROM leases WHERE notification_id = id)
    ORDER BY created_at LIMIT {AT_ONCE} FOR NO KEY UPDATE OF notifications SKIP LOCKED
), taken AS (
    INSERT INTO leases (notification_id, leased_until, attempts, owner)
    SELECT id, clock_timestamp() + ($1::integer[])[1] * interval '1 ms', 1, ($2::uuid[])[1] FROM due
    ON CONFLICT DO NOTHING RETURNING notification_id, attempts, delivered
)
SELECT {_WHAT}, attempts, delivered FROM due JOIN taken ON id = notification_id ORDER BY created_at""")

_TAKE_AGAIN = Statement(f"""/* leases.take_again: tried before and nobody is at it; the least tried first */
WITH due AS MATERIALIZED (
    SELECT {_WHAT}, created_at FROM leases
    JOIN notifications ON id = notification_id JOIN recipients USING (user_id)
    WHERE status = 'pending' AND leased_until < clock_timestamp()
    ORDER BY attempts, created_at LIMIT {AGAIN_AT_ONCE} FOR NO KEY UPDATE OF notifications, leases SKIP LOCKED
), taken AS (
    UPDATE leases SET leased_until = clock_timestamp() + ($1::integer[])[1] * interval '1 ms',
    attempts = attempts + 1, owner = ($2::uuid[])[1] FROM due WHERE id = notification_id
    RETURNING notification_id, attempts, delivered
)
SELECT {_WHAT}, attempts, delivered FROM due JOIN taken ON id = notification_id
ORDER BY attempts, created_at""")

_UNLOCKED = """WITH unlocked AS (
    SELECT notification_id, attempts FROM leases WHERE notification_id = ANY($1::uuid[])
    FOR UPDATE SKIP LOCKED
)"""
"""Whoever locks several waits for none of them."""

_HOLD = Statement(f"""/* leases.hold: nobody else takes these meanwhile */ {_UNLOCKED}
UPDATE leases SET leased_until = clock_timestamp() + ($2::integer[])[1] * interval '1 ms'
FROM unlocked WHERE leases.notification_id = unlocked.notification_id""")

_LET_GO = Statement(f"""/* leases.let_go: these were not tried */ {_UNLOCKED}, never AS (
    DELETE FROM leases USING unlocked
    WHERE leases.notification_id = unlocked.notification_id AND unlocked.attempts = 1
)
UPDATE leases SET leased_until = clock_timestamp(), attempts = leases.attempts - 1
FROM unlocked WHERE leases.notification_id = unlocked.notification_id AND unlocked.attempts > 1""")

_PUT_OFF = Statement(f"""/* leases.put_off: nobody takes these before then; but for what is locked */
{_UNLOCKED}, put_off AS (
    UPDATE leases
    SET leased_until = clock_timestamp() + pause * interval '1 ms', delivered = given.delivered, owner = NULL
    FROM unlocked JOIN unnest($1::uuid[], $2::integer[], $3::boolean[]) AS given (id, pause, delivered)
    ON id = unlocked.notification_id WHERE leases.notification_id = id RETURNING id
)
SELECT notification_id FROM leases WHERE notification_id = ANY($1::uuid[])
AND notification_id NOT IN (SELECT id FROM put_off)""")

_DROP = Statement(f"""/* leases.drop: what became of these is recorded */ {_UNLOCKED}
DELETE FROM leases USING unlocked WHERE leases.notification_id = unlocked.notification_id""")

_SWEEP = Statement("""/* leases.sweep: what a mailer that died had recorded */
DELETE FROM leases WHERE notification_id IN (
    SELECT notification_id FROM leases JOIN notifications ON id = notification_id WHERE status <> 'pending'
    FOR UPDATE OF leases SKIP LOCKED
)""")

_TAKE_OVER = Statement("""/* leases.take_over: what this process had in hand when it died */
UPDATE leases SET leased_until = clock_timestamp() WHERE notification_id IN (
    SELECT notification_id FROM leases WHERE owner = ($1::uuid[])[1] FOR UPDATE SKIP LOCKED
)""")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mail:
    id: UUID
    user_id: UUID
    email: str
    subject: str
    text: str
    event_id: UUID
    correlation_id: UUID
    trace_id: str
    attempts: int
    delivered: bool | None
    """What the server said to it, where that could not be recorded yet."""

    @property
    def cause(self) -> Cause:
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)

    @property
    def timeout_seconds(self) -> float:
        return min(MAIL_TIMEOUT_SECONDS * self.attempts, LONGEST_MAIL_TIMEOUT_SECONDS)

    @property
    def pause_seconds(self) -> float:
        """Until it is tried again."""
        return min(2.0 ** min(self.attempts, 10), _LONGEST_PAUSE_SECONDS)


class Leases:
    """Those of one process."""

    def __init__(self, engine: AsyncEngine, owner: UUID) -> None:
        """Whoever was this owner before has ended."""
        self.held: set[UUID] = set()
        """Nobody else takes these: their leases are renewed, if `hold` runs."""
        self._engine = engine
        self._owner = [owner]
        self._swept = False
        self._dropped: list[UUID] = []
        self._put_off: dict[UUID, tuple[int, bool | None]] = {}
        """By id the pause in milliseconds, and what the server said to it."""

    async def take(self, *, first: bool, again: bool) -> tuple[list[Mail], list[Mail]]:
        """Those that nobody has tried, and those that were tried before. Each is held from now on; what was
        held already, though its lease could not be renewed in time, is left out.
        """
        async with self._told() as trip:
            if not self._swept:
                trip.add(_SWEEP)
                trip.add(_TAKE_OVER, self._owner)
            lease = [_milliseconds(LEASE_SECONDS)], self._owner
            of_first = trip.add(_TAKE, *lease, row=Mail) if first else []
            of_again = trip.add(_TAKE_AGAIN, *lease, row=Mail) if again else []
        self._swept = True
        new = [[mail for mail in mails if mail.id not in self.held] for mails in (of_first, of_again)]
        self.held.update(mail.id for mails in new for mail in mails)
        return new[0], new[1]

    def drop(self, mail: Mail) -> None:
        """What became of it is recorded."""
        self.held.discard(mail.id)
        self._dropped.append(mail.id)

    def put_off(self, mail: Mail, delivered: bool | None) -> None:
        """It is mailed, or recorded, later. It is held until the database knows."""
        self._put_off[mail.id] = _milliseconds(mail.pause_seconds), delivered

    async def let_go(self, mails: Collection[UUID]) -> None:
        """They count as not tried, but for what is put off."""
        untried = set(mails) - self._put_off.keys()
        self.held -= untried
        async with self._told() as trip:
            if untried:
                trip.add(_LET_GO, list(untried))

    async def hold(self) -> None:
        """Runs until cancelled. A lease is renewed before it is over, if it is needed for so long."""
        before: set[UUID] = set()
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self.renew(before & self.held)
            except Exception as error:
                log.warning("cannot hold what is being mailed", error=str(error) or repr(error))
            before = set(self.held)

    async def renew(self, mails: Collection[UUID]) -> None:
        if mails:
            async with self._trip() as trip:
                trip.add(_HOLD, list(mails), [_milliseconds(LEASE_SECONDS)])

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[RoundTrip]:
        """A trip that begins with what is gathered. What cannot be told stays gathered."""
        dropped, put_off = self._dropped, self._put_off
        self._dropped, self._put_off = [], {}
        locked: list[tuple[UUID]] = []
        try:
            async with self._trip() as trip:
                if dropped:
                    trip.add(_DROP, dropped)
                if put_off:
                    pauses, delivered = zip(*put_off.values(), strict=True)
                    locked = trip.add(_PUT_OFF, list(put_off), pauses, delivered)
                yield trip
        except BaseException:
            self._dropped, self._put_off = dropped + self._dropped, put_off | self._put_off
            raise
        self._put_off = {id: put_off[id] for (id,) in locked} | self._put_off
        self.held.difference_update(put_off.keys() - self._put_off.keys())

    @asynccontextmanager
    async def _trip(self) -> AsyncIterator[RoundTrip]:
        async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS), raw_connection(self._engine) as conn:
            trip = RoundTrip(conn)
            yield trip
            await trip.commit()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
