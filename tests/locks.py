"""Somebody else's lock in the way, to see what happens before it is given and what only afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.shop import eventually


@dataclass(frozen=True)
class Held:
    """A lock that a session of the test holds."""

    conn: psycopg.AsyncConnection[tuple[Any, ...]]

    async def keeps_waiting(self, sessions: int) -> None:
        """Returns once so many others wait for a lock."""
        await eventually(self._waiting, lambda number: number == sessions)

    async def _waiting(self) -> int:
        found = await self.conn.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        ((number,),) = await found.fetchall()
        return int(number)


@asynccontextmanager
async def held(url: str, statement: str, *values: object) -> AsyncIterator[Held]:
    """What this statement locks is locked until the block ends."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute(statement.encode(), values)
        yield Held(conn)
