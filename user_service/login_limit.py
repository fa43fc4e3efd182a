"""Five wrong passwords in fifteen minutes, per login and address; then a pause."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.problems import Problem
from user_service.tables import failed_logins

MOST_FAILURES = 5
WINDOW = timedelta(minutes=15)


class LoginLimit:
    """Attempts on one login from one address are made one after the other, so that none slips through."""

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
                await attempt.check()
                yield attempt
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._turns[place], self._waiting[place]


class Attempt:
    def __init__(self, engine: AsyncEngine, now: datetime, login_key: str, address: str) -> None:
        self._engine = engine
        self._now = now
        self._place = {"login_key": login_key, "address": address}

    async def check(self) -> None:
        query = (
            select(failed_logins.c.at).filter_by(**self._place).where(failed_logins.c.at > self._now - WINDOW)
        )
        async with self._engine.connect() as conn:
            failures = sorted((await conn.execute(query)).scalars())
        if len(failures) >= MOST_FAILURES:
            pause = ceil((failures[-MOST_FAILURES] + WINDOW - self._now).total_seconds())
            raise Problem(
                429,
                "too_many_attempts",
                "There were too many wrong passwords. Try again later.",
                headers={"Retry-After": str(max(pause, 1))},
            )

    async def failed(self) -> None:
        """One more; those outside the window are forgotten."""
        async with self._engine.begin() as conn:
            old = (
                delete(failed_logins).filter_by(**self._place).where(failed_logins.c.at <= self._now - WINDOW)
            )
            await conn.execute(old)
            await conn.execute(insert(failed_logins).values(at=self._now, **self._place))

    async def succeeded(self) -> None:
        """The count starts again."""
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).filter_by(**self._place))
