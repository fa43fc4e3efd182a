"""How many requests of one user may wait here, and be streamed to, at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import uniform
from uuid import UUID

from choreo.chassis.http.problems import Problem

MOST = 50
"""Of one user in one process."""
REFUSED_AT_ONCE = 50
"""Of one user in `_WINDOW_SECONDS`. Whoever goes on to ask is refused slowly (a tarpit): asked again at once
on thousands of connections, we would do nothing but refuse.
"""
_WINDOW_SECONDS = 10.0
_SLOWLY_SECONDS = 3.0, 6.0
_MOST_SLOWLY = 2_000
"""Of all users at the same time: each takes memory."""


async def _slowly() -> None:
    await asyncio.sleep(uniform(*_SLOWLY_SECONDS))  # not all of them come again in the same moment


class Waits:
    def __init__(self, slowly: Callable[[], Awaitable[None]] = _slowly) -> None:
        self._open: Counter[UUID] = Counter()
        self._slowly = slowly
        self._held = 0
        self._refused: Counter[UUID] = Counter()
        self._counted_from = 0.0

    def is_full(self, user_id: UUID | None) -> bool:
        return user_id is not None and self._open[user_id] >= MOST

    async def admit(self, user_id: UUID) -> None:
        """Returns where there is room for one more. Raises 429 where there is none."""
        if self.is_full(user_id) and self._asks_too_often(user_id) and self._held < _MOST_SLOWLY:
            self._held += 1
            try:
                await self._slowly()
            finally:
                self._held -= 1
        if self.is_full(user_id):
            detail = f"{MOST} requests of yours wait here already, or are streamed to."
            raise Problem(429, "too_many_waits", detail, headers={"Retry-After": "1"})

    def _asks_too_often(self, user_id: UUID) -> bool:
        now = time.monotonic()
        if now - self._counted_from > _WINDOW_SECONDS:
            self._refused.clear()
            self._counted_from = now
        self._refused[user_id] += 1
        return self._refused[user_id] > REFUSED_AT_ONCE

    @contextmanager
    def one(self, user_id: UUID) -> Iterator[None]:
        """Open as long as the block runs. It was admitted just now."""
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
