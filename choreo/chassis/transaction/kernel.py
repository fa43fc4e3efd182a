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
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog

from choreo.chassis.database.connection import Failure, failure_of
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction.answered import Answered
from choreo.chassis.transaction.held_back import HeldBack, Name
from choreo.chassis.transaction.inputs import (
    Asked,
    Failed,
    Heard,
    Input,
    KeyReused,
    Overloaded,
    PositionGap,
    Reply,
    Respond,
    SideWrite,
    Unavailable,
)
from choreo.chassis.transaction.locks import Locked
from choreo.chassis.transaction.positions import TopicPartition
from choreo.chassis.transaction.step import Decider
from choreo.chassis.transaction.store import KernelStore
from choreo.chassis.transaction.transaction import Transaction, Work
from choreo.chassis.waiting.waiters import Waiters
from choreo.message.decider import Command
from choreo.message.state import SHARED_FACTS

S = TypeVar("S")

BATCH = 500
"""At most so many inputs share a transaction."""
QUEUE_SOFT_LIMIT = 4 * BATCH
"""A reader of a topic stops to wait when so many inputs are queued. Those held back do not count: of each
partition there are only so many, since it is paused.
"""
QUEUE_HARD_LIMIT = 2 * QUEUE_SOFT_LIMIT
"""With so many queued, no new command is let in: it would be answered too late."""
KEY_LIMIT = BATCH
"""With so many of one key waiting for an answer, no other of that key is let in. It keeps nobody else out."""
ANSWER_TIMEOUT_SECONDS = 5.0
"""Seconds a request waits for the database before it is told to come again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SHARED = tuple(fact.__name__ for fact in SHARED_FACTS)
_SOME_ROW = "a row is locked by another session"
_ATTEMPTS = {
    Failure.AWAY: 8,  # five seconds: sessions that break one after the other are the fault of no input
    Failure.CONFLICT: 10,
    Failure.ENDED: sys.maxsize,
    Failure.LOCKED: sys.maxsize,
    Failure.UNFIT: sys.maxsize,
}
"""So often a batch may fail, while the database answers in between, before it is halved. Where something is
locked, sessions are ended, or a table is missing, no input is at fault."""

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
        job: Job | None = None,
    ) -> None:
        self.waiters = Waiters()
        self.on_facts: list[Callable[[], None]] = []
        """Called after a commit that put facts into the outbox."""
        self.on_commit: list[Callable[[Collection[str]], None]] = [self.waiters.wake]
        """Called after every commit that moved keys: with these, and the types of the shared facts in it."""
        self.trouble: str | None = None
        """Why the database cannot be used right now."""
        self._transaction = Transaction(decider, partition_of=partition_of, clock=clock)
        self._store = store
        self._answered = Answered(store)
        self._clock = clock
        self._meter = meter
        self._job = job or Job()
        self._queue: deque[Input] = deque()
        self._asking: Counter[str] = Counter()
        self._held_back = HeldBack(time.monotonic)
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
        Where it is not to be admitted, or too many wait, of all or of its key, only one that was answered
        before is answered.
        Raises `Overloaded`, `Unavailable`, `KeyReused` or `Failed`.
        """
        if self.trouble:
            raise Unavailable(self.trouble)
        key = command.key
        of_key = respond is not None and self._asking[key] >= KEY_LIMIT
        if not admit or of_key or len(self._queue) >= QUEUE_HARD_LIMIT:
            return await self._first_reply(id or command.cause.id, fingerprint)
        done = asyncio.get_running_loop().create_future()
        asked = Asked(id or command.cause.id, command, respond, fingerprint, side_write, self._clock(), done)
        self._put(asked)
        self._asking[key] += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                return await asked.done
        except TimeoutError:
            raise Unavailable(self.trouble or "the database did not answer in time") from None
        finally:
            self._asking[key] -= 1
            if not self._asking[key]:
                del self._asking[key]

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
        self._job.has(self._backlog)

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled. Trouble with the database is waited out, and no input ends it."""
        while True:
            self._say_how_it_gets_on()
            if self._held_back.due():
                await self._try_held_back()
            batch = self._take()
            if batch:
                try:
                    await self._finish(batch)
                except asyncio.CancelledError:  # whoever begins anew finds them
                    left = [input for input in batch if not self._held_back.holds(input)]
                    self._queue.extendleft(reversed(self._held_back.release(left)))
                    raise
            else:
                self._arrived.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._held_back.pause):
                        await self._arrived.wait()

    def _take(self) -> list[Input]:
        """The next inputs in order of arrival. Whoever locks several keys shares none with the others."""
        batch: list[Input] = []
        taken: set[str] = set()
        shared: set[str] = set()
        while self._queue and len(batch) < BATCH:
            input = self._queue[0]
            keys = input.keys
            several = len(keys) > 1
            if keys & (taken if several else shared):
                break
            self._queue.popleft()
            if not input.done.done() and not self._held_back.takes(input):
                batch.append(input)
                taken |= keys
                if several:
                    shared |= keys
        if len(self._queue) < QUEUE_SOFT_LIMIT:
            self._room.set()
        return batch

    async def _finish(self, batch: list[Input]) -> None:
        """Returns when every input of the batch is committed, refused, parked, held back or given up.

        The class of an error says what the server noticed, not whose fault it is. What fails again and again
        although the database answers is the fault of the batch.
        """
        failures: Counter[Failure] = Counter()
        pause = _FIRST_PAUSE
        while batch := [input for input in batch if not (input.done.done() or self._held_back.takes(input))]:
            try:
                await self._transact(batch)
                self._healed(batch)
                return
            except Exception as error:
                failure = failure_of(error)
                failures[failure] += 1
                if failure is Failure.INPUT or failures[failure] >= _ATTEMPTS[failure]:
                    await self._isolate(batch, error)
                    return
                if failure is Failure.LOCKED and (locked := await self._locked_of(batch)):
                    if not locked.rows and len(batch) > 1:  # whose it is shows when they are halved
                        await self._halve(batch)
                        return
                    unknown: dict[Name, str] = dict.fromkeys(sorted(batch[0].keys), _SOME_ROW)
                    self._hold_up(locked.rows or unknown)
                    failures.clear()
                    pause = _FIRST_PAUSE
                    continue
                self._hurt(error, failure)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            await self._until_it_answers()
        await self._until_it_answers()

    async def _locked_of(self, batch: Sequence[Input]) -> Locked | None:
        """What of these somebody else holds: no rows where it is one of another table. None where nobody can
        go on, since a whole table is locked, or the database cannot be asked.
        """
        keys = sorted({key for input in batch for key in input.keys})
        partitions = sorted({input.place for input in batch if isinstance(input, Heard)})
        found = await self._locked(keys, partitions)
        return None if found is None or found.tables else found

    def _hold_up(self, causes: Mapping[Name, str]) -> None:
        """What wants these waits until they are free, and the others are taken now."""
        for cause in causes.values():
            log.warning("held up", cause=cause)
        self._held_back.hold_up(causes)

    async def _try_held_back(self) -> None:
        """What is still locked costs nobody anything; what seems to be free is tried."""
        due = self._held_back.due()
        found = await self._locked(
            [name for name in due if isinstance(name, str)],
            [name for name in due if not isinstance(name, str)],
        )
        if found is not None:
            self._held_back.hold_up(found.rows)
        self._queue.extendleft(reversed(self._held_back.release()))

    async def _locked(self, keys: Collection[str], partitions: Collection[TopicPartition]) -> Locked | None:
        """None where the database cannot be asked."""
        try:
            return await self._store.locked(keys, partitions)
        except Exception as error:
            log.debug("cannot look for locks", error=repr(error))
            return None

    async def _halve(self, batch: list[Input]) -> None:
        middle = len(batch) // 2
        await self._finish(batch[:middle])
        await self._finish(batch[middle:])

    async def _isolate(self, batch: list[Input], error: Exception) -> None:
        """Something in this batch cannot be written: halve it until the offender stands alone."""
        if len(batch) > 1:
            await self._halve(batch)
            return
        (input,) = batch
        log.error("cannot be written", input=str(input.id), key=input.key, error=str(error))
        match input:
            case Asked():
                self._meter.count(commands={(type(input.command).__name__, "failed"): 1})
                self._healed(batch)
                _resolve(input, Failed(str(error)))
            case Heard() if input.rejected:
                # Not even parking it is possible. Its partition waits for a person, and nobody else.
                place = input.place
                self._held_back.hold_up(
                    {place: f"{place[0]}[{place[1]}]@{input.offset} cannot even be parked: {error}"}
                )
                self._held_back.takes(input)
            case Heard():
                input.rejected = error
                await self._finish(batch)

    async def _until_it_answers(self) -> None:
        """Asks by itself: whoever is refused meanwhile brings no news. A session must be able to write."""
        pause = _FIRST_PAUSE
        while self.trouble:
            try:
                await self._store.probe()
                self.trouble = None
            except Exception as error:
                self._hurt(error, failure_of(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _hurt(self, error: Exception, failure: Failure) -> None:
        if not self.trouble:
            log.error("database trouble, trying again", error=str(error), exc_info=error)
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        self.trouble = f"{failure.value}: {reason}"
        self._job.held_up(self.trouble)

    def _healed(self, batch: Sequence[Input]) -> None:
        self._held_back.free(key for input in batch for key in input.keys)
        self._held_back.free(input.place for input in batch if isinstance(input, Heard))

    @property
    def _backlog(self) -> int:
        return len(self._queue) + len(self._held_back)

    def _say_how_it_gets_on(self) -> None:
        self._job.got_on(self._backlog)
        if cause := self._held_back.cause:
            self._job.held_up(cause, serves=True)

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
            if isinstance(answer, PositionGap) and isinstance(input, Heard):
                self._refuse_behind(input, answer)
        shared = [type_ for type_ in _SHARED if work.decided[type_,] or work.heard[type_, "applied"]]
        for callback in self.on_commit if work.moved else ():
            callback([*work.moved, *shared])
        for wake in self.on_facts if work.unpublished else ():
            wake()
        self._meter.count(work.commands, work.heard, work.decided)

    def _refuse_behind(self, refused: Heard, gap: PositionGap) -> None:
        """What the same reader has given of this partition since then: none of it is the next one."""
        place = refused.place
        for input in self._queue:
            if isinstance(input, Heard) and input.place == place:
                _resolve(input, gap)


def _resolve(input: Input, answer: Reply | Exception | None) -> None:
    done: asyncio.Future[Any] = input.done
    with suppress(asyncio.InvalidStateError):
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            done.set_result(answer)
