"""Five wrong passwords in fifteen minutes, per login and address; then a pause.

An attempt is recorded as failed before the password is looked at, and taken back if it was none. So however
many are made at once, at however many processes of this service, no sixth wrong password is looked at.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.problems import Problem
from user_service.tables import failed_logins

MOST_FAILURES = 5
WINDOW = timedelta(minutes=15)
_LOCK_CLASS = 0x0106


class LoginLimit:
    """In one process attempts on one login from one address are made one after the other: who has the right
    password need not suffer from those of his own that are not decided yet.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._waiting: dict[tuple[str, str], int] = {}

    @asynccontextmanager
    async def attempt(self, login: str, address: str) -> AsyncIterator["Attempt"]:
        """Raises 429 if there were too many failures."""
        place = login.casefold(), address
        turn = self._turns.setdefault(place, asyncio.Lock())
        self._waiting[place] = self._waiting.get(place, 0) + 1
        try:
            async with turn:
                attempt = Attempt(self._engine, self._clock(), *place)
                await attempt.begin()
                try:
                    yield attempt
                finally:
                    if not attempt.decided:
                        await attempt.withdraw()
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._turns[place], self._waiting[place]


class Attempt:
    decided = False

    def __init__(self, engine: AsyncEngine, now: datetime, login_key: str, address: str) -> None:
        self._engine = engine
        self._now = now
        self._place = {"login_key": login_key, "address": address}

    async def begin(self) -> None:
        """Records a failure; those outside the window are forgotten. 429 where there are enough already."""
        ours = delete(failed_logins).filter_by(**self._place)
        turn = func.pg_advisory_xact_lock(_LOCK_CLASS, func.hashtext("\n".join(self._place.values())))
        async with self._engine.begin() as conn:
            await conn.execute(select(turn))
            await conn.execute(ours.where(failed_logins.c.at <= self._now - WINDOW))
            query = select(failed_logins.c.at).filter_by(**self._place)
            failures = sorted((await conn.execute(query)).scalars())
            if len(failures) >= MOST_FAILURES:
                pause = ceil((failures[-MOST_FAILURES] + WINDOW - self._now).total_seconds())
                raise Problem(
                    429,
                    "too_many_attempts",
                    "There were too many wrong passwords. Try again later.",
                    headers={"Retry-After": str(max(pause, 1))},
                )
            await conn.execute(insert(failed_logins).values(at=self._now, **self._place))

    def failed(self) -> None:
        """It stays recorded."""
        self.decided = True

    async def succeeded(self) -> None:
        """The count starts again."""
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).filter_by(**self._place))
        self.decided = True

    async def withdraw(self) -> None:
        """Nobody looked at the password."""
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).filter_by(at=self._now, **self._place))
