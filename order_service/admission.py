"""Takes no more orders than can be decided in time.

Two ages tell: how long orders have been undecided, and how long facts have been unpublished. Both are moments
in the past, so between two looks an age grows by itself and only its falling is noticed late.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import raw_connection
from choreo.chassis.transaction import outbox
from order_service import queries

_PAUSE = 0.25
_LEAST = timedelta(seconds=1)
"""Less than this is no age: that long a restart takes, or a look that comes late."""

log = structlog.get_logger()


class Admission:
    """Asks nothing of anybody while no orders come and nothing is unfinished.

    Where orders come k times as fast as they are decided, one that is taken while the oldest is of age a is
    decided k·a later. Three times what can be decided at best is about six times what is decided then, since
    turning away takes its part of the machine. A tenth of the deadline leaves every order time even so. Facts
    may wait for Kafka a third: they go out soon when it is back.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime], deadline: timedelta) -> None:
        self._engine = engine
        self._clock = clock
        self._undecided_for = max(deadline / 10, _LEAST)
        self._unpublished_for = max(deadline / 3, _LEAST)
        self._undecided_since: datetime | None = None
        self._unpublished_since: datetime | None = None
        self._asked = asyncio.Event()

    def is_open(self) -> bool:
        """To be asked for every order that comes."""
        self._asked.set()
        now = self._clock()
        return not (
            _is_older(self._undecided_since, now - self._undecided_for)
            or _is_older(self._unpublished_since, now - self._unpublished_for)
        )

    async def run(self) -> None:
        """Runs until cancelled. While the database is away, what was known last holds."""
        while True:
            self._asked.clear()
            try:
                await self.look()
            except Exception as error:
                log.debug("cannot look for what is unfinished", error=repr(error))
            await asyncio.sleep(_PAUSE)
            if not (self._undecided_since or self._unpublished_since):
                await self._asked.wait()

    async def look(self) -> None:
        was_open = self.is_open()
        async with raw_connection(self._engine) as conn:
            self._undecided_since = await queries.undecided_since(conn)
            _, self._unpublished_since = await outbox.backlog(conn)
        if self.is_open() != was_open:
            log.warning("orders are turned away" if was_open else "orders are taken again")


def _is_older(since: datetime | None, than: datetime) -> bool:
    return since is not None and since < than
