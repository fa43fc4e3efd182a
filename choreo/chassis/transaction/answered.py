"""Which inputs were answered before, looked up without a lock: all that ask meanwhile share the next look."""

import asyncio
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import raw_connection
from choreo.chassis.transaction import journal
from choreo.chassis.transaction.journal import SeenInput


class Answered:
    """One connection at most, however many ask: whoever is turned away takes none from those who were not."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._asked: set[UUID] = set()
        self._next: asyncio.Task[dict[UUID, SeenInput]] | None = None

    async def get(self, id: UUID) -> SeenInput | None:
        """None if it was not. Raises what the driver raises."""
        self._asked.add(id)
        if self._next is None:
            self._next = asyncio.create_task(self._look())
        return (await asyncio.shield(self._next)).get(id)

    async def _look(self) -> dict[UUID, SeenInput]:
        async with self._turn:
            ids, self._asked, self._next = self._asked, set(), None
            async with raw_connection(self._engine) as conn:
                return await journal.seen(conn, ids)
