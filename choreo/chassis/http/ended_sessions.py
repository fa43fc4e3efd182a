"""Whose tokens of before are good no more, as far as this service has heard: where the verifier asks."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import sessions_ended
from choreo.chassis.http import auth
from choreo.chassis.waiting.waiters import Waiters
from choreo.message.sessions import SessionsEnded

_TOKENS_OF = timedelta(seconds=auth.LIFETIME + 2 * auth.LEEWAY)
"""What ended longer ago ended no token that is not over by itself."""
_KNOWN_FOR = timedelta(minutes=1)
"""Then a look, in case the word of another process was lost."""


class EndedSessions:
    """In memory, and read again once a commit, of whichever process of this service, ended any."""

    def __init__(self, engine: AsyncEngine, waiters: Waiters, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._changed = waiters.watched(SessionsEnded.__name__)
        self._read: asyncio.Future[dict[UUID, float]] | None = None
        self._good_until = datetime.min.replace(tzinfo=UTC)

    async def not_before(self, user_id: UUID) -> float | None:
        """In seconds since the epoch; None where none of this user's was ended lately."""
        now = self._clock()
        if self._read is None or self._changed.is_set() or self._good_until <= now:
            self._changed.clear()
            self._good_until = now + _KNOWN_FOR
            self._read = asyncio.ensure_future(self._all(now - _TOKENS_OF))
        try:
            return (await asyncio.shield(self._read)).get(user_id)
        except Exception:
            self._read = None
            raise

    async def _all(self, since: datetime) -> dict[UUID, float]:
        query = select(sessions_ended).where(sessions_ended.c.not_before > since)
        async with self._engine.connect() as conn:
            return {row.user_id: row.not_before.timestamp() for row in await conn.execute(query)}
