"""Sessions of a consumer on the log in memory: the real `Handover`, and what is around it as a model.

A session reads what its process has been assigned, from the positions on. It ends when the group is divided
anew, or with the first error, and the next begins from the positions.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, cast

from choreo.chassis.kafka.handover import FactsByTopic, Handover
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import TopicPartition
from choreo.simulation.database import Database
from choreo.simulation.log import Chunk, Log
from choreo.simulation.loop import Process

_BUFFERED_CHUNKS = 4
_PAUSE_SECONDS = 1.0
_MOST_RECORDS = 4
"""A chunk is small, so that there are many borders between them."""


class Delivered:
    """A fetch as Faust gives it: an event, and its message, here of one partition's chunk."""

    def __init__(self, place: TopicPartition, chunk: Chunk) -> None:
        self.value = {place: chunk}
        self.message = self


class Consumer:
    def __init__(
        self,
        process: Process,
        consumed: FactsByTopic,
        kernel: Kernel[Any],
        database: Database,
        log: Log,
        chance: Random,
    ) -> None:
        self._process = process
        self._consumed = consumed
        self._kernel = kernel
        self._database = database
        self._log = log
        self._chance = chance
        self._assigned: Sequence[TopicPartition] = ()
        self._divided = asyncio.Event()
        self._chunks: asyncio.Queue[Delivered] = asyncio.Queue(_BUFFERED_CHUNKS)
        self._paused: dict[TopicPartition, asyncio.Event] = {}

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """It hears of it when it is its turn."""
        self._assigned = places
        asyncio.get_running_loop().call_soon(self._divided.set, context=self._process.context)

    async def run(self) -> None:
        while True:
            try:
                await self._session()
            except Exception:  # whatever it was: the next one begins from the positions
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _session(self) -> None:
        """Raises what ended it, if it was not that the group was divided anew."""
        self._divided.clear()
        self._chunks, self._paused = asyncio.Queue(_BUFFERED_CHUNKS), {}
        assigned = self._assigned
        next_offsets = await self._database.next_offsets()
        handover = Handover(self._kernel, self._consumed, cast(Any, self), lambda: None)
        stream: Any = self
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._divided.wait()),
            asyncio.ensure_future(handover.listen(stream, check=self._check)),
            *(asyncio.ensure_future(self._fetch(place, next_offsets[place])) for place in assigned),
        ]
        try:
            await asyncio.wait({*tasks, handover.ended}, return_when=asyncio.FIRST_COMPLETED)
            for end in (handover.ended, *tasks):
                if end.done():
                    end.result()
        finally:
            handover.close()
            for task in tasks:
                task.cancel()

    async def _fetch(self, place: TopicPartition, offset: int) -> None:
        while True:
            if place in self._paused:
                await self._paused[place].wait()
            chunk = await self._log.fetch(place, offset, self._chance.randint(1, _MOST_RECORDS))
            await self._chunks.put(Delivered(place, chunk))
            offset = chunk.end

    async def _check(self, place: TopicPartition, epoch: int) -> None:
        """There is one leader, and it stays."""

    # -- what the handover asks of Faust ---------------------------------------------------------

    def noack(self) -> "Consumer":
        return self

    async def events(self) -> AsyncIterator[Delivered]:
        while True:
            yield await self._chunks.get()

    def acknowledge(self, place: TopicPartition, offset: int) -> None:
        """Kafka's offsets are nobody's truth here."""

    def pause(self, place: TopicPartition) -> None:
        self._paused[place] = asyncio.Event()

    def resume(self, place: TopicPartition) -> None:
        self._paused.pop(place).set()
