"""The kernel's store on a database in memory, behind the same interface as Postgres.

What is gathered is carried out by the server, which does not need its client for it: who dies meanwhile, or
loses the connection, may have committed all the same.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial, reduce
from types import CoroutineType, SimpleNamespace
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
from sqlalchemy import Table

from choreo.chassis.database import tables
from choreo.chassis.database.connection import ANSWER_TIMEOUT_SECONDS
from choreo.chassis.database.round_trip import Later
from choreo.chassis.transaction.inputs import Decided, SideWrite
from choreo.chassis.transaction.journal import JournalRow, SeenInput
from choreo.chassis.transaction.locks import Locked
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.positions import Expected, Position, Reached, TopicPartition
from choreo.chassis.transaction.state_store import TableMapping
from choreo.simulation.database import Database, Session, give_way

S = TypeVar("S")


class _Step:
    """A statement that is to be carried out; called, it gives what came of it."""

    __slots__ = ("name", "result", "run")
    result: Any

    def __init__(self, name: str, run: Callable[[], Any]) -> None:
        """`run` may be a coroutine's function: one that has to wait."""
        self.name = name
        self.run = run

    def __call__(self) -> Any:
        return self.result


class _Late(Exception):
    """The server has not answered in time."""


class MemoryTransaction(Generic[S]):
    """Like `PostgresTransaction`. `context` gives one in which its server runs."""

    def __init__(
        self,
        database: Database,
        context: Callable[[], Context],
        connection: Callable[["MemoryTransaction[S]"], Any],
    ) -> None:
        self._database = database
        self._context = context
        self._connection = connection
        self.session = self._session = Session(database)
        self._steps: list[_Step] = []
        self._trip: asyncio.Task[None] | None = None
        self._failed = False
        self._is_gone = False

    # -- what it is asked for --------------------------------------------------------------------

    def lock_positions(self, partitions: Sequence[TopicPartition]) -> Later[dict[TopicPartition, Expected]]:
        if not partitions:
            return dict
        names = [("positions", *place) for place in sorted(partitions)]
        rows = self._add("positions.lock", lambda: self._session.lock(names))
        return lambda: {row.place: row.expected for row in rows()}

    def lock_keys(self, wanted: Sequence[str]) -> Later[dict[str, int]]:
        if not wanted:
            return dict
        names = [("keys", key) for key in sorted(wanted)]
        self._add("keys.make", lambda: self._make_keys(sorted(wanted)))
        rows = self._add("keys.lock", lambda: self._session.lock(names))
        return lambda: {row.key: row.sequence for row in rows()}

    async def _make_keys(self, wanted: Sequence[str]) -> None:
        for key in wanted:
            await self._session.insert(tables.keys, _key(key, 0), unless_there=True)

    def load(self, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, S]]:
        return self._add("load", lambda: self._states(wanted))

    def _states(self, wanted: Mapping[str, Sequence[object]]) -> dict[str, S]:
        states, memory = self._database.states, self._session.states()
        return {
            key: reduce(
                lambda one, other: _merged(states.mappings, one, other),
                (states.from_memory(memory, key, content) for content in contents),
            )
            for key, contents in wanted.items()
        }

    def seen(self, ids: Collection[UUID]) -> Later[dict[UUID, SeenInput]]:
        return self._add("journal.seen", lambda: _seen(self._session, ids)) if ids else dict

    def blocked(self, wanted: Collection[str]) -> Later[set[str]]:
        if not wanted:
            return set
        parked = self._add("parked.blocked", lambda: {row.key for row in self._session.all("parked")})
        return lambda: parked().intersection(wanted)

    def save(self, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        for mapping in self._database.states.mappings:
            found = [mapping.differences(before[key], state) for key, state in after.items()]
            self._insert(mapping.table, [row for added, _ in found for row in added])
            self._replace(mapping.table, [row for _, changed in found for _, row in changed])

    def _replace(self, table: Table, rows: Sequence[Any]) -> None:
        if rows:
            self._add(f"write.{table.name}", lambda: self._replace_all(table, rows))

    async def _replace_all(self, table: Table, rows: Sequence[Any]) -> None:
        for row in rows:
            await self._session.replace(table, row)

    def add_to_journal(self, rows: Sequence[JournalRow]) -> None:
        self._insert(tables.journal, rows)

    def add_to_outbox(self, rows: Sequence[OutboxRow]) -> None:
        self._insert(tables.outbox, rows)

    def park(self, rows: Sequence[Parked]) -> None:
        self._insert(tables.parked, rows)

    def _insert(self, table: Table, rows: Sequence[Any]) -> None:
        if rows:
            self._add(f"write.{table.name}", lambda: self._insert_all(table, rows))

    async def _insert_all(self, table: Table, rows: Sequence[Any]) -> None:
        for row in rows:
            if table is tables.outbox:
                row = dataclasses.replace(row, position=self._database.next_number("outbox"))
            await self._session.insert(table, row)

    def advance_keys(self, sequences: Mapping[str, int]) -> None:
        if sequences:
            self._add("keys.advance", lambda: self._advance_keys(sequences))

    async def _advance_keys(self, sequences: Mapping[str, int]) -> None:
        for key, sequence in sequences.items():
            await self._session.update(("keys", key), partial(_moved, sequence))

    def advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None:
        if reached:
            self._add("positions.advance", lambda: self._advance_positions(reached))

    async def _advance_positions(self, reached: Mapping[TopicPartition, Reached]) -> None:
        for place, to in reached.items():
            await self._session.update(("positions", *place), partial(_advanced, to))

    async def write_beside(self, side_write: SideWrite, decided: Decided) -> None:
        await self.send()
        await side_write(self._connection(self), decided)

    async def ask(self, name: str, run: Callable[[], Any], *, commits: bool) -> Any:
        """A statement that is sent alone, or with its commit."""
        result = self._add(name, run)
        await (self.commit() if commits else self.send())
        return result()

    def _add(self, name: str, run: Callable[[], Any]) -> Later[Any]:
        step = _Step(name, run)
        self._steps.append(step)
        return step

    # -- the round trip --------------------------------------------------------------------------

    async def commit(self) -> None:
        self._add("commit", self._commit)
        await self.send()

    async def _commit(self) -> None:
        if self._trip and self._session.is_alone:  # where it is not, it has just done so
            await give_way()
        self._session.end(commit=True)
        await self._take_time("committed")

    async def send(self) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        if self._is_gone:
            raise psycopg.OperationalError("the connection is lost")
        if self._failed:
            raise psycopg.errors.InFailedSqlTransaction("current transaction is aborted")
        if self._session.is_alone and self._database.is_calm():
            await self._carry_out_in_passing(steps)
            return
        loop = asyncio.get_running_loop()
        self._answer = answer = loop.create_future()
        self._trip = loop.create_task(self._carry_out(steps, answer), context=self._context())
        try:
            await answer
        except _Late:
            self._is_gone = True
            raise psycopg.OperationalError("the database did not answer") from None

    async def _carry_out_in_passing(self, steps: Sequence[_Step]) -> None:
        """The server's part, where nobody could tell when that was: it costs a third."""
        await give_way()
        if self._is_gone:
            raise psycopg.OperationalError("the connection is lost")
        meet = None if self._database.is_quiet() else self._database.meet
        try:
            for step in steps:
                if meet:
                    meet(step.name)
                self._session.begin(step.name)
                result = step.run()
                step.result = await result if type(result) is CoroutineType else result
        except Exception:
            self._failed = True
            self._session.end(commit=False)
            raise
        if not self._session.is_open:  # who is killed here has committed; else nothing of it is left anyway
            await give_way()

    async def _take_time(self, name: str) -> None:
        """What befalls a statement. Whoever waits for too long for what takes time waits no more."""
        if seconds := self._database.meet(name):
            loop = asyncio.get_running_loop()
            limit = loop.call_later(ANSWER_TIMEOUT_SECONDS, _give_up, self._answer)
            await asyncio.sleep(seconds)
            limit.cancel()

    async def _carry_out(self, steps: Sequence[_Step], answer: "asyncio.Future[None]") -> None:
        """The server's part. It begins when it is its turn, and others may go on before each of its further
        statements.
        """
        error: Exception | None = None
        try:
            for step in steps:
                if step is not steps[0] and not self._session.is_alone:
                    await give_way()
                await self._take_time(step.name)
                self._session.begin(step.name)
                result = step.run()
                step.result = await result if type(result) is CoroutineType else result
        except Exception as raised:
            error, self._failed = raised, True
        finally:
            self._trip = None
            if self._is_gone or self._failed:
                self._session.end(commit=False)
        if answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    @property
    def is_idle(self) -> bool:
        return self._trip is None

    def end(self) -> None:
        """By the server: what it is carrying out is not finished."""
        self._is_gone = True
        self._database.listeners.pop(self, None)
        if self._trip:
            self._trip.cancel()
            if not self._answer.done():
                self._answer.set_exception(psycopg.errors.AdminShutdown("terminating connection"))
        self._session.end(commit=False)

    def hang_up(self) -> None:
        """The client is gone. What it has sent is carried out all the same, and the rest undone."""
        self._is_gone = True
        self._database.listeners.pop(self, None)
        if self._trip is None:
            self._session.end(commit=False)


class MemoryStore(Generic[S]):
    """What one process has open with its database. `context` gives one for the server of a new session, and
    `connection` what side writes are given: if nothing else, the session.
    """

    def __init__(
        self,
        database: Database,
        context: Callable[[], Context] = copy_context,
        connection: Callable[[MemoryTransaction[S]], Any] = lambda opened: opened.session,
    ) -> None:
        self.database = self._database = database
        self._new_context = context
        self._connection = connection
        self._open: dict[MemoryTransaction[S], None] = {}

    def transaction(self) -> "_Opened[S]":
        return _Opened(self)

    def open(self) -> MemoryTransaction[S]:
        opened: MemoryTransaction[S] = MemoryTransaction(self._database, self._new_context, self._connection)
        self._open[opened] = None
        return opened

    def close(self, opened: MemoryTransaction[S]) -> None:
        self._open.pop(opened, None)
        opened.hang_up()

    async def seen(self, ids: Collection[UUID]) -> dict[UUID, SeenInput]:
        async with self.transaction() as opened:
            found = opened.seen(ids)
            await opened.send()
            return found()

    async def locked(self, wanted: Collection[str], partitions: Collection[TopicPartition]) -> Locked:
        await self._database.turn("locks")
        names: dict[Any, Any] = {("keys", key): key for key in wanted}
        names |= {("positions", *place): place for place in partitions}
        held = [name for name in names if name in self._database.holders]
        there = [name for name in held if name in self._database.committed[name[0]]]
        return Locked({names[name]: f"{names[name]} is locked by another session" for name in there})

    async def probe(self) -> None:
        await self._database.turn("probe")

    def hang_up(self) -> None:
        """The process is gone, or its network."""
        for opened in self._open:
            opened.hang_up()

    def end_sessions(self) -> None:
        """The server ends them, whatever they are doing."""
        for opened in self._open:
            opened.end()

    def end_idle_sessions(self) -> None:
        """The server ends those that wait for their client."""
        for opened in self._open:
            if opened.is_idle:
                opened.end()


class _Opened(Generic[S]):
    """A transaction that is open for as long as a block."""

    def __init__(self, store: MemoryStore[S]) -> None:
        self._store = store

    async def __aenter__(self) -> MemoryTransaction[S]:
        self._opened = self._store.open()
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        self._store.close(self._opened)


def _give_up(answer: "asyncio.Future[None]") -> None:
    if not answer.done():
        answer.set_exception(_Late())


def _key(key: str, sequence: int) -> SimpleNamespace:
    return SimpleNamespace(key=key, sequence=sequence)


def _moved(sequence: int, row: SimpleNamespace) -> SimpleNamespace:
    return _key(row.key, sequence)


def _advanced(to: Reached, row: Position) -> Position:
    row = dataclasses.replace(
        row, next_offset=to.next_offset, end_offset=to.next_offset, end_epoch=to.end_epoch
    )
    if to.last_offset < 0:
        return row
    return dataclasses.replace(
        row, last_offset=to.last_offset, last_digest=to.record.digest, leader_epoch=to.leader_epoch
    )


def _seen(session: Session, ids: Collection[UUID]) -> dict[UUID, SeenInput]:
    rows = [row for id in ids if (row := session.visible(("journal", id)))]
    return {
        row.id: SeenInput(
            row.id, row.outcome, row.fingerprint, row.answer_status, row.answer_body, row.answer_headers
        )
        for row in rows
    }


def _merged(mappings: Sequence[TableMapping], one: S, other: S) -> S:
    """A state with the rows of both: of one key, as two inputs need them."""
    merged: dict[str, Any] = {}
    for mapping in mappings:
        first, second = getattr(one, mapping.field), getattr(other, mapping.field)
        merged[mapping.field] = (second or first) if mapping.single else {**first, **second}
    return dataclasses.replace(one, **merged)  # type: ignore[type-var]
