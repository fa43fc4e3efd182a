"""What the kernel needs of a database, in one place; and Postgres, which gives it.

Positions, keys, states, journal, outbox and parked events are read and written for a whole batch, each with
a statement of its own. Whatever gives the same promises can stand behind this interface.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, probe_writing, raw_connection
from choreo.chassis.transaction import journal, keys, locks, outbox, parked, positions
from choreo.chassis.transaction.inputs import Decided, SideWrite
from choreo.chassis.transaction.journal import JournalRow, SeenInput
from choreo.chassis.transaction.locks import Locked
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.positions import Reached, TopicPartition
from choreo.chassis.transaction.state_store import Store

S = TypeVar("S")


class StoreTransaction(Protocol[S]):
    """What it has locked, nobody else changes before it ends; what is not committed is undone."""

    async def lock_positions(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]: ...

    async def lock_keys(self, wanted: Collection[str]) -> dict[str, int]: ...

    async def load(self, wanted: Mapping[str, Sequence[object]]) -> dict[str, S]: ...

    async def seen(self, ids: Collection[UUID]) -> dict[UUID, SeenInput]: ...

    async def blocked(self, wanted: Collection[str]) -> set[str]: ...

    async def save(self, before: Mapping[str, S], after: Mapping[str, S]) -> None: ...

    async def add_to_journal(self, rows: Sequence[JournalRow]) -> None: ...

    async def add_to_outbox(self, rows: Sequence[OutboxRow]) -> None: ...

    async def park(self, rows: Sequence[Parked]) -> None: ...

    async def advance_keys(self, sequences: Mapping[str, int]) -> None: ...

    async def advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None: ...

    async def write_beside(self, side_write: SideWrite, decided: Decided) -> None: ...

    async def commit(self) -> None: ...


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
        self._states = states

    async def lock_positions(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return await positions.lock(self.conn, partitions)

    async def lock_keys(self, wanted: Collection[str]) -> dict[str, int]:
        return await keys.lock(self.conn, wanted)

    async def load(self, wanted: Mapping[str, Sequence[object]]) -> dict[str, S]:
        return await self._states.load(self.conn, wanted)

    async def seen(self, ids: Collection[UUID]) -> dict[UUID, SeenInput]:
        return await journal.seen(self.conn, ids)

    async def blocked(self, wanted: Collection[str]) -> set[str]:
        return await parked.blocked(self.conn, wanted)

    async def save(self, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        await self._states.save(self.conn, before, after)

    async def add_to_journal(self, rows: Sequence[JournalRow]) -> None:
        await journal.add(self.conn, rows)

    async def add_to_outbox(self, rows: Sequence[OutboxRow]) -> None:
        await outbox.add(self.conn, rows)

    async def park(self, rows: Sequence[Parked]) -> None:
        await parked.add(self.conn, rows)

    async def advance_keys(self, sequences: Mapping[str, int]) -> None:
        await keys.advance(self.conn, sequences)

    async def advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None:
        await positions.advance(self.conn, reached)

    async def write_beside(self, side_write: SideWrite, decided: Decided) -> None:
        await side_write(self.conn, decided)

    async def commit(self) -> None:
        await self.conn.commit()


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
            return await journal.seen(conn, ids)

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
