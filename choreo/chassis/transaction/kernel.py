"""THE transaction. A batch of inputs, whatever they are, is finished together or not at all.

The promise, kept here and in `choreo.chassis.transaction.transaction`, and nowhere else:

* every input takes effect exactly once, however often it arrives (journal, by id);
* what was decided is published (outbox) if and only if it was written (same transaction);
* what happens to one key happens in one order, across HTTP, Kafka and replicas (lock on the key's row);
* how far a topic has been read is true if and only if what was read is written (positions).

Inputs gather while the previous transaction commits, and the next takes all of them: group commit
without a timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog

from choreo.chassis.database.connection import is_database_away, is_rejected_by_database
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction.answered import Answered
from choreo.chassis.transaction.inputs import (
    Asked,
    Failed,
    Heard,
    Input,
    KeyReused,
    Overloaded,
    Reply,
    Respond,
    SideWrite,
    Unavailable,
)
from choreo.chassis.transaction.step import Decider
from choreo.chassis.transaction.store import KernelStore
from choreo.chassis.transaction.transaction import Transaction, Work
from choreo.chassis.transaction.waiters import Waiters
from choreo.message.decider import Command

S = TypeVar("S")

BATCH = 500
"""At most so many inputs share a transaction."""
QUEUE_SOFT_LIMIT = 4 * BATCH
"""A reader of a topic stops to wait when so many inputs are queued."""
QUEUE_HARD_LIMIT = 2 * QUEUE_SOFT_LIMIT
"""With so many queued, no new command is let in: it would be answered too late."""
ANSWER_TIMEOUT_SECONDS = 5.0
"""Seconds a request waits for the database before it is told to come again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

log = structlog.get_logger()


class Kernel(Generic[S]):
    """Give it commands with `ask` and records with `hear`; `run` finishes them."""

    def __init__(
        self,
        decider: Decider[S],
        store: KernelStore[S],
        *,
        partition_of: Callable[[str], int],
        clock: Callable[[], datetime],
        meter: Meter,
    ) -> None:
        self.waiters = Waiters()
        self.on_facts: list[Callable[[], None]] = []
        """Called after a commit that put facts into the outbox."""
        self.on_commit: list[Callable[[Collection[str]], None]] = [self.waiters.wake]
        """Called with the keys after every commit that moved any."""
        self.trouble: str | None = None
        """Why the database cannot be used right now."""
        self._transaction = Transaction(decider, partition_of=partition_of, clock=clock)
        self._store = store
        self._answered = Answered(store)
        self._clock = clock
        self._meter = meter
        self._queue: deque[Input] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # -- the way in ------------------------------------------------------------------------------

    async def ask(
        self,
        command: Command,
        respond: Respond | None = None,
        *,
        id: UUID | None = None,
        fingerprint: bytes = b"",
        side_write: SideWrite | None = None,
        admit: bool = True,
    ) -> Reply | None:
        """The reply to a command, once what it decided is committed. Repeating it finds the same reply.

        A command that begins a flow has the flow's id; one that goes on with a flow needs an `id` of its own.
        Where it is not to be admitted, or too many are queued, only one that was answered before is answered.
        Raises `Overloaded`, `Unavailable`, `KeyReused` or `Failed`.
        """
        if self.trouble:
            raise Unavailable(self.trouble)
        if not admit or len(self._queue) >= QUEUE_HARD_LIMIT:
            return await self._first_reply(id or command.cause.id, fingerprint)
        done = asyncio.get_running_loop().create_future()
        asked = Asked(id or command.cause.id, command, respond, fingerprint, side_write, self._clock(), done)
        self._put(asked)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                return await asked.done
        except TimeoutError:
            raise Unavailable(self.trouble or "the database did not answer in time") from None

    async def _first_reply(self, id: UUID, fingerprint: bytes) -> Reply | None:
        """Raises `Overloaded` if there is none."""
        try:
            before = await self._answered.get(id)
        except Exception as error:
            raise Unavailable(str(error)) from error
        if before is None:
            raise Overloaded("more was taken than can be finished in time")
        if before.fingerprint != fingerprint:
            raise KeyReused()
        return before.reply

    def hear(self, heard: Heard) -> None:
        """Takes a record. `heard.done` is resolved once it is committed; `PositionGap` if out of turn."""
        self._put(heard)

    async def room(self) -> None:
        """Returns when there is room for more records."""
        await self._room.wait()

    def _put(self, input: Input) -> None:
        self._queue.append(input)
        self._arrived.set()
        if len(self._queue) >= QUEUE_SOFT_LIMIT:
            self._room.clear()

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled. Trouble with the database is waited out, never fatal."""
        while True:
            batch = self._take()
            if batch:
                await self._finish(batch)
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _take(self) -> list[Input]:
        """The next inputs in order of arrival. Whoever locks several keys shares none with the others."""
        batch: list[Input] = []
        taken: set[str] = set()
        shared: set[str] = set()
        while self._queue and len(batch) < BATCH:
            input = self._queue[0]
            several = len(input.keys) > 1
            if input.keys & (taken if several else shared):
                break
            self._queue.popleft()
            if not input.done.done():
                batch.append(input)
                taken |= input.keys
                if several:
                    shared |= input.keys
        if len(self._queue) < QUEUE_SOFT_LIMIT:
            self._room.set()
        return batch

    async def _finish(self, batch: list[Input]) -> None:
        """Returns when every input of the batch is committed, refused, parked or given up by its asker."""
        pause = _FIRST_PAUSE
        while batch:
            try:
                await self._transact(batch)
                self._healed()
                return
            except Exception as error:
                if is_rejected_by_database(error):
                    await self._isolate(batch, error)
                    return
                if not is_database_away(error):
                    raise
                self._hurt(error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            batch = [input for input in batch if not input.done.done()]
        await self._wait_for_database()

    async def _isolate(self, batch: list[Input], error: Exception) -> None:
        """Halves a batch of which the database rejects something, until the offender stands alone."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._finish(batch[:middle])
            await self._finish(batch[middle:])
            return
        (input,) = batch
        log.error("rejected by the database", input=str(input.id), key=input.key, error=str(error))
        match input:
            case Asked():
                self._meter.count(commands={(type(input.command).__name__, "failed"): 1})
                _resolve(input, Failed(str(error)))
            case Heard() if input.rejected:
                raise error  # not even parking it is possible
            case Heard():
                input.rejected = error
                await self._finish(batch)

    async def _wait_for_database(self) -> None:
        """Everybody who asked has left. Nobody is let in before the database answers again."""
        pause = _FIRST_PAUSE
        while self.trouble and not self._queue:
            try:
                await self._store.probe()
                self._healed()
            except Exception as error:
                self._hurt(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _hurt(self, error: Exception) -> None:
        if not self.trouble:
            log.error("database trouble, trying again", error=str(error), exc_info=error)
        self.trouble = f"the database cannot be used: {str(error).splitlines()[0] if str(error) else error!r}"

    def _healed(self) -> None:
        if self.trouble:
            log.info("the database is back")
        self.trouble = None

    async def _transact(self, batch: Sequence[Input]) -> None:
        with self._meter.transaction(len(batch)):
            async with self._store.transaction() as store:
                work = await self._transaction.lock_and_load(store, batch)
                for input in batch:
                    self._transaction.take(work, input)
                if work.writes:
                    await self._transaction.write(store, work)
                    await store.commit()
        self._tell(work)

    def _tell(self, work: Work[S]) -> None:
        """Committed: answer whoever asked, wake whoever waits."""
        for input, answer in work.answers:
            _resolve(input, answer)
        for callback in self.on_commit if work.moved else ():
            callback(work.moved)
        for wake in self.on_facts if work.unpublished else ():
            wake()
        self._meter.count(work.commands, work.heard, work.decided)


def _resolve(input: Input, answer: Reply | Exception | None) -> None:
    done: asyncio.Future[Any] = input.done
    with suppress(asyncio.InvalidStateError):
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            done.set_result(answer)
