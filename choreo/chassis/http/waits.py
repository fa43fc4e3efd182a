"""How many requests of one user may wait here, and be streamed to, at once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from choreo.chassis.http.problems import Problem

MOST = 50
"""Of one user in one process."""


class Waits:
    def __init__(self) -> None:
        self._open: Counter[UUID] = Counter()

    def is_full(self, user_id: UUID | None) -> bool:
        return user_id is not None and self._open[user_id] >= MOST

    @contextmanager
    def one(self, user_id: UUID) -> Iterator[None]:
        """Open as long as the block runs. Raises 429."""
        if self.is_full(user_id):
            detail = f"{MOST} requests of yours wait here already, or are streamed to."
            raise Problem(429, "too_many_waits", detail, headers={"Retry-After": "1"})
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
