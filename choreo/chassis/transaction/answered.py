"""Which inputs were answered before, looked up without a lock: all that ask meanwhile share the next look."""

import asyncio
from typing import Any
from uuid import UUID

from choreo.chassis.transaction.journal import SeenInput
from choreo.chassis.transaction.store import KernelStore


class Answered:
    """One connection at most, however many ask: whoever is turned away takes none from those who were not."""

    def __init__(self, store: KernelStore[Any]) -> None:
        self._store = store
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
            return await self._store.seen(ids)
