"""How many requests of one user may wait here, and be streamed to, at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import uniform
from uuid import UUID

from choreo.chassis.http.problems import Problem

MOST = 50
"""Of one user in one process."""
PAUSE_SECONDS = 1.0
"""At most so long the next one stands there before it is refused: asked again at once, on thousands of
connections, we would do nothing but refuse.
"""


class Waits:
    def __init__(self) -> None:
        self._open: Counter[UUID] = Counter()

    def is_full(self, user_id: UUID | None) -> bool:
        return user_id is not None and self._open[user_id] >= MOST

    async def admit(self, user_id: UUID) -> None:
        """Returns when there is room for one more. Raises 429 where there is none after a while."""
        if self.is_full(user_id):
            await asyncio.sleep(uniform(0.5, 1) * PAUSE_SECONDS)
        if self.is_full(user_id):
            detail = f"{MOST} requests of yours wait here already, or are streamed to."
            raise Problem(429, "too_many_waits", detail, headers={"Retry-After": "1"})

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
