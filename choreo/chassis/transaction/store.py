"""What the kernel needs of a database, in one place; and Postgres, which gives it.

Positions, keys, states, journal, outbox and parked events are read and written for a whole batch, each with
a statement of its own, and many statements with one round trip. Whatever gives the same promises can stand
behind this interface.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, probe_writing, raw_connection
from choreo.chassis.database.round_trip import Later, RoundTrip
from choreo.chassis.transaction import journal, keys, locks, outbox, parked, positions
from choreo.chassis.transaction.inputs import Decided, SideWrite
from choreo.chassis.transaction.journal import JournalRow, SeenInput
from choreo.chassis.transaction.locks import Locked
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.positions import Expected, Reached, TopicPartition
from choreo.chassis.transaction.state_store import Store

S = TypeVar("S")


class StoreTransaction(Protocol[S]):
    """What it has locked, nobody else changes before it ends; what is not committed is undone.

    What it is asked for gathers until it is sent, in one round trip. It is done in that order, and each sees
    what others have committed when it is its turn.
    """

    def lock_positions(
        self, partitions: Sequence[TopicPartition]
    ) -> Later[dict[TopicPartition, Expected]]: ...

    def lock_keys(self, wanted: Sequence[str]) -> Later[dict[str, int]]: ...

    def load(self, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, S]]: ...

    def seen(self, ids: Collection[UUID]) -> Later[dict[UUID, SeenInput]]: ...

    def blocked(self, wanted: Collection[str]) -> Later[set[str]]: ...

    def save(self, before: Mapping[str, S], after: Mapping[str, S]) -> None: ...

    def add_to_journal(self, rows: Sequence[JournalRow]) -> None: ...

    def add_to_outbox(self, rows: Sequence[OutboxRow]) -> None: ...

    def park(self, rows: Sequence[Parked]) -> None: ...

    def advance_keys(self, sequences: Mapping[str, int]) -> None: ...

    def advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None: ...

    async def write_beside(self, side_write: SideWrite, decided: Decided) -> None:
        """After all it was asked for so far."""
        ...

    async def send(self) -> None: ...

    async def commit(self) -> None:
        """Sends what is gathered, and commits it in the same round trip."""
        ...


class KernelStore(Protocol[S]):
    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction[S]]: ...

    async def seen(self, ids: Collection[UUID]) -> dict[UUID, SeenInput]:
        """Returns which of these inputs are committed, without waiting for any lock."""
        ...

    async def locked(self, wanted: Collection[str], partitions: Collection[TopicPartition]) -> Locked:
        """Returns which of these somebody else holds, without waiting for them."""
        ...

    async def probe(self) -> None:
        """Raises what writing would raise, where that is not possible."""
        ...


class PostgresTransaction(Generic[S]):
    def __init__(self, conn: Connection, states: Store[S]) -> None:
        self.conn = conn
        self._trip = RoundTrip(conn)
        self._states = states

    def lock_positions(self, partitions: Sequence[TopicPartition]) -> Later[dict[TopicPartition, Expected]]:
        return positions.lock(self._trip, partitions)

    def lock_keys(self, wanted: Sequence[str]) -> Later[dict[str, int]]:
        return keys.lock(self._trip, wanted)

    def load(self, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, S]]:
        return self._states.load(self._trip, wanted)

    def seen(self, ids: Collection[UUID]) -> Later[dict[UUID, SeenInput]]:
        return journal.seen(self._trip, ids)

    def blocked(self, wanted: Collection[str]) -> Later[set[str]]:
        return parked.blocked(self._trip, wanted)

    def save(self, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        self._states.save(self._trip, before, after)

    def add_to_journal(self, rows: Sequence[JournalRow]) -> None:
        journal.add(self._trip, rows)

    def add_to_outbox(self, rows: Sequence[OutboxRow]) -> None:
        outbox.add(self._trip, rows)

    def park(self, rows: Sequence[Parked]) -> None:
        parked.add(self._trip, rows)

    def advance_keys(self, sequences: Mapping[str, int]) -> None:
        keys.advance(self._trip, sequences)

    def advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None:
        positions.advance(self._trip, reached)

    async def write_beside(self, side_write: SideWrite, decided: Decided) -> None:
        await self._trip.send()
        await side_write(self.conn, decided)

    async def send(self) -> None:
        await self._trip.send()

    async def commit(self) -> None:
        await self._trip.commit()


class PostgresStore(Generic[S]):
    def __init__(self, engine: AsyncEngine, states: Store[S]) -> None:
        self._engine = engine
        self._states = states

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction[S]]:
        async with raw_connection(self._engine) as conn:
            yield PostgresTransaction(conn, self._states)

    async def seen(self, ids: Collection[UUID]) -> dict[UUID, SeenInput]:
        async with raw_connection(self._engine) as conn:
            async with RoundTrip(conn) as trip:
                found = journal.seen(trip, ids)
            return found()

    async def locked(self, wanted: Collection[str], partitions: Collection[TopicPartition]) -> Locked:
        async with raw_connection(self._engine) as conn:
            return await locks.locked(conn, wanted, partitions)

    async def probe(self) -> None:
        """Sessions of a database that cannot be written are no good once it can: they are thrown away."""
        try:
            async with raw_connection(self._engine) as conn:
                await probe_writing(conn)
        except Exception:
            await self._engine.dispose()
            raise
