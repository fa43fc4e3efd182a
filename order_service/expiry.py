"""Ends the orders that nobody has decided about in time.

An order is due when its `decide_by` has passed and nothing that billing had said by then is still to be
heard. Its expiry is a journaled command whose id is derived from the order: however many processes ask, and
however often, it is decided once.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.observe.health import Job
from choreo.chassis.transaction.inputs import Failed
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.envelope import derived_id
from order_service import queries
from order_service.commands import ExpireOrder
from order_service.queries import Due
from order_service.state import Orders

_AT_ONCE = 500
_CATCH_UP_TIMEOUT_SECONDS = 5.0
"""Seconds a round waits for what is still to be heard."""
_PAUSE = 1.0

log = structlog.get_logger()


class Expiry:
    """Asks nothing of anybody while no order's time is up: it knows until when it may sleep."""

    def __init__(
        self,
        kernel: Kernel[Orders],
        engine: AsyncEngine,
        catch_up: CatchUp,
        clock: Callable[[], datetime],
        deadline: timedelta,
        job: Job,
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._catch_up = catch_up
        self._clock = clock
        self._deadline = deadline
        self._job = job

    async def run(self) -> None:
        """Runs until cancelled. Kafka or the database away is waited out; meanwhile nothing expires."""
        while True:
            try:
                pause = await self.round()
                self._job.got_on()
            except Exception as error:
                self._job.held_up(f"nothing can expire: {type(error).__name__}")
                log.warning("nothing can expire, trying again", error=str(error) or repr(error))
                pause = _PAUSE
            await asyncio.sleep(pause)

    async def round(self) -> float:
        """Expires what is due. Seconds until there may be something again."""
        now = self._clock()
        pause = await self._until_next(now)
        if pause > 0:
            return pause
        read = await self._catch_up.read(_CATCH_UP_TIMEOUT_SECONDS)
        async for page in queries.undecided(self._engine, due=now, at_once=_AT_ONCE):
            known = await self._catch_up.known({str(order.user_id) for order in page}, read)
            await self._expire([order for order in page if str(order.user_id) in known])
        return _PAUSE

    async def _until_next(self, now: datetime) -> float:
        """Seconds. Whatever is placed from now on is not due before the deadline is over."""
        first = await queries.next_deadline(self._engine)
        left = self._deadline if first is None else min(first - now, self._deadline)
        return left.total_seconds()

    async def _expire(self, orders: Sequence[Due]) -> None:
        await asyncio.gather(*map(self._expire_one, orders))

    async def _expire_one(self, order: Due) -> None:
        command = ExpireOrder(cause=order.cause, user_id=order.user_id, order_id=order.id)
        with suppress(Failed):  # logged there; the others go on
            await self._kernel.ask(command, id=derived_id("expiry", order.id))
