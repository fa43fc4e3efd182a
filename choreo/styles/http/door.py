"""Where facts come in that somebody brings, instead of Kafka: to the same kernel, as the same inputs.

The kernel counts how far each place was read, and a place is a topic and a partition. So every process that
hears over HTTP is a topic of its own, in which it numbers what it is brought; nobody else ever writes there.
Whether a fact was heard before its id tells, as ever.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import FactTypes, Heard, Unavailable, read
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.positions import Position
from choreo.message.codec import UnknownType

log = structlog.get_logger()


class Door:
    def __init__(
        self,
        kernel: Kernel[Any],
        engine: AsyncEngine,
        consumes: FactTypes,
        partition_of: Callable[[str], int],
        partitions: int,
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._consumes = consumes
        self._partition_of = partition_of
        self._place = f"http:{uuid4().hex[:12]}"
        self._numbers = [count() for _ in range(partitions)]
        self._begun: asyncio.Future[None] | None = None

    async def hear(self, facts: Sequence[OutboxRow]) -> None:
        """Returns once all of them are committed, applied or parked; in their order. Raises `Unavailable`."""
        if self._kernel.trouble:
            raise Unavailable(self._kernel.trouble)
        await self._begin()
        await self._kernel.room()
        heard = [self._heard(fact) for fact in facts]
        for one in heard:
            self._kernel.hear(one)
        await asyncio.gather(*(asyncio.shield(one.done) for one in heard))

    async def _begin(self) -> None:
        """Once. Where the database is away the next call tries again."""
        if self._begun is None or (self._begun.done() and self._begun.exception()):
            self._begun = asyncio.ensure_future(self._declare())
        await asyncio.shield(self._begun)

    async def _declare(self) -> None:
        places = [Position(self._place, number, 0, "", "") for number in range(len(self._numbers))]
        async with raw_connection(self._engine) as conn:
            await positions.begin(conn, places)
            await conn.commit()

    def _heard(self, fact: OutboxRow) -> Heard:
        record, partition = fact.record, self._partition_of(fact.key)
        try:
            event, error = read(record, self._consumes)
        except UnknownType as unknown:
            event, error = None, None
            log.info("skipped", detail=str(unknown))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = next(self._numbers[partition])
        # One before it may never have been committed: nothing lies between that anybody could still bring.
        return Heard(self._place, partition, number, record, event, error, clock.now(), done, fetched_from=0)
