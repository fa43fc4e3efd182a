"""Takes no more orders than can be decided in time.

Two ages tell: how long orders have been undecided, and how long facts have been unpublished. Both are moments
in the past, so between two looks an age grows by itself and only its falling is noticed late.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, raw_connection
from choreo.chassis.observe.health import Job
from choreo.chassis.transaction import outbox
from order_service import queries

PROBE = timedelta(seconds=2)
"""So often an order is let in while others are undecided for too long: it tells whether any is decided."""
LOOK_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.25
_LEAST = timedelta(seconds=1)
"""Less than this is no age: that long a restart takes, or a look that comes late."""

log = structlog.get_logger()


class Admission:
    """Asks nothing of anybody while no orders come and nothing is unfinished.

    Where orders come k times as fast as they are decided, one that is taken while the oldest is of age a is
    decided k·a later. Three times what can be decided at best is about six times what is decided then, since
    turning away takes its part of the machine. A tenth of the deadline leaves every order time even so. Facts
    may wait for Kafka a third: they go out soon when it is back. Those of one partition turn away nobody
    whose facts go to another.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Callable[[], datetime],
        deadline: timedelta,
        partition_of: Callable[[str], int],
        job: Job,
        unpublished_since: Callable[
            [Connection], Awaitable[Mapping[int, datetime]]
        ] = outbox.unpublished_since,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._partition_of = partition_of
        self._job = job
        self._undecided_for = max(deadline / 10, _LEAST)
        self._unpublished_for = max(deadline / 3, _LEAST)
        self._undecided_since: datetime | None = None
        self._unpublished_since: Mapping[int, datetime] = {}
        self._look_for_unpublished = unpublished_since
        self._probed_at: datetime | None = None
        self._was_open = True
        self._asked = asyncio.Event()

    def admits(self, key: str) -> bool:
        """To be asked for every order that comes."""
        self._asked.set()
        now = self._clock()
        if _is_older(self._unpublished_since.get(self._partition_of(key)), now - self._unpublished_for):
            return False
        if not _is_older(self._undecided_since, now - self._undecided_for):
            return True
        if self._probed_at is None or now < self._probed_at + PROBE:
            self._probed_at = self._probed_at or now
            return False
        self._probed_at = now
        return True

    async def run(self) -> None:
        """Runs until cancelled. While the database is away, what was known last holds."""
        while True:
            self._asked.clear()
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                    await self.look()
            except Exception as error:
                log.debug("cannot look for what is unfinished", error=repr(error))
                self._job.held_up(f"cannot look for what is unfinished: {type(error).__name__}")
            await asyncio.sleep(_PAUSE_SECONDS)
            if self._job.state.ready and not (self._undecided_since or self._unpublished_since):
                await self._asked.wait()

    async def look(self) -> None:
        async with raw_connection(self._engine) as conn:
            self._undecided_since = await queries.undecided_since(conn)
            self._unpublished_since = oldest = await self._look_for_unpublished(conn)
        self._job.got_on()
        now = self._clock()
        is_open = not (
            _is_older(self._undecided_since, now - self._undecided_for)
            or any(_is_older(since, now - self._unpublished_for) for since in oldest.values())
        )
        if is_open != self._was_open:
            log.warning("orders are taken again" if is_open else "orders are turned away")
        self._was_open = is_open
        if is_open:
            self._probed_at = None


def _is_older(since: datetime | None, than: datetime) -> bool:
    return since is not None and since < than
