"""THE transaction. A batch of inputs, whatever they are, is finished together or not at all.

The promise, written once and here only:

* every input takes effect exactly once, however often it arrives (journal, by id);
* what was decided is published (outbox) if and only if it was written (same transaction);
* what happens to one key happens in one order, across HTTP, Kafka and replicas (lock on the key's row);
* how far a topic has been read is true if and only if what was read is written (positions).

Inputs gather while the previous transaction commits, and the next takes all of them: group commit
without a timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import journal, keys, outbox, parked, positions
from chassis.answer import Answer
from chassis.db import Connection, is_refusal, is_trouble, raw_connection
from chassis.inputs import (
    Aside,
    Asked,
    Decided,
    Failed,
    Heard,
    Input,
    KeyReused,
    PositionGap,
    Respond,
    Unavailable,
)
from chassis.meter import Meter
from chassis.positions import Place
from chassis.shelf import Shelves
from chassis.step import Decider, hear, obey
from chassis.waiters import Waiters
from events.decider import Command

S = TypeVar("S")

BATCH = 500
"""At most so many inputs share a transaction."""
ROOM = 4 * BATCH
"""A reader of a topic stops to wait when so many inputs are queued."""
PATIENCE = 5.0
"""Seconds a request waits for the database before it is told to come again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

log = structlog.get_logger()


@dataclass
class Work(Generic[S]):
    """What one transaction writes, and whom it answers once it is committed."""

    now: datetime
    before: dict[str, S]
    sequences: dict[str, int]
    seen: dict[Any, journal.Seen]
    blocked: set[str]
    expected: dict[Place, int]
    after: dict[str, S] = field(default_factory=dict)
    advanced: dict[Place, int] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    entries: list[journal.Entry] = field(default_factory=list)
    unpublished: list[outbox.Unpublished] = field(default_factory=list)
    to_park: list[parked.Parked] = field(default_factory=list)
    asides: list[tuple[Aside, Decided]] = field(default_factory=list)
    answers: list[tuple[Input, Answer | Exception | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.after = dict(self.before)

    @property
    def writes(self) -> bool:
        return bool(self.entries or self.advanced)


class Kernel(Generic[S]):
    """Give it commands with `ask` and records with `hear`; `run` finishes them."""

    def __init__(
        self,
        decider: Decider[S],
        shelves: Shelves[S],
        engine: AsyncEngine,
        *,
        partition_of: Callable[[str], int],
        clock: Callable[[], datetime],
        meter: Meter,
    ) -> None:
        self.decider = decider
        self.waiters = Waiters()
        self.on_facts: list[Callable[[], None]] = []
        """Called after a commit that put facts into the outbox."""
        self.on_commit: list[Callable[[], None]] = []
        """Called after every commit that moved a key."""
        self.trouble: str | None = None
        """Why the database cannot be used right now."""
        self._shelves = shelves
        self._engine = engine
        self._partition_of = partition_of
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
        respond: Respond,
        *,
        id: UUID | None = None,
        fingerprint: bytes = b"",
        aside: Aside | None = None,
    ) -> Answer:
        """The answer to a command, once what it decided is committed. Repeating it finds the same answer.

        A command that begins a flow has the flow's id; one that goes on with a flow needs an `id` of its own.
        Raises `Unavailable`, `KeyReused` or `Failed`.
        """
        if self.trouble:
            raise Unavailable(self.trouble)
        done = asyncio.get_running_loop().create_future()
        asked = Asked(id or command.cause.id, command, respond, fingerprint, aside, done)
        self._put(asked)
        try:
            async with asyncio.timeout(PATIENCE):
                return await asked.done
        except TimeoutError:
            raise Unavailable(self.trouble or "the database did not answer in time") from None

    def hear(self, heard: Heard) -> None:
        """Takes a record. `heard.done` is resolved once it is committed; `PositionGap` if out of turn."""
        self._put(heard)

    async def room(self) -> None:
        """Returns when there is room for more records."""
        await self._room.wait()

    def _put(self, input: Input) -> None:
        self._queue.append(input)
        self._arrived.set()
        if len(self._queue) >= ROOM:
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
        if len(self._queue) < ROOM:
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
                if is_refusal(error):
                    await self._isolate(batch, error)
                    return
                if not is_trouble(error):
                    raise
                self._hurt(error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            batch = [input for input in batch if not input.done.done()]
        await self._wait_for_database()

    async def _isolate(self, batch: list[Input], error: Exception) -> None:
        """The database refused something in this batch: halve it until the offender stands alone."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._finish(batch[:middle])
            await self._finish(batch[middle:])
            return
        (input,) = batch
        log.error("refused by the database", input=str(input.id), key=input.key, error=str(error))
        match input:
            case Asked():
                _resolve(input, Failed(str(error)))
            case Heard() if input.refused:
                raise error  # not even parking it is possible
            case Heard():
                input.refused = error
                await self._finish(batch)

    async def _wait_for_database(self) -> None:
        """Everybody who asked has left. Nobody is let in before the database answers again."""
        pause = _FIRST_PAUSE
        while self.trouble and not self._queue:
            try:
                async with raw_connection(self._engine) as conn:
                    await conn.execute("SELECT 1")
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

    # -- the transaction -------------------------------------------------------------------------

    async def _transact(self, batch: Sequence[Input]) -> None:
        with self._meter.transaction(len(batch)):
            async with raw_connection(self._engine) as conn:
                work = await self._lock_and_load(conn, batch)
                for input in batch:
                    match input:
                        case Heard():
                            self._take_heard(work, input)
                        case Asked():
                            self._take_asked(work, input)
                if work.writes:
                    await self._write(conn, work)
                    await conn.commit()
        self._tell(work)

    async def _lock_and_load(self, conn: Connection, batch: Sequence[Input]) -> Work[S]:
        """Locks first and reads afterwards: one statement for both would read what was before its wait."""
        places = {(input.topic, input.partition) for input in batch if isinstance(input, Heard)}
        expected = await positions.lock(conn, sorted(places))
        inputs = [input for input in batch if not isinstance(input, Heard) or _is_due(input, expected)]
        sequences = await keys.lock(conn, sorted({key for input in inputs for key in input.keys}))
        seen = await journal.seen(conn, [input.id for input in inputs])
        heard = {input.key for input in inputs if isinstance(input, Heard)}
        wanted: dict[str, list[object]] = {}
        for input in inputs:
            wanted.setdefault(input.key, []).append(input.content)
        return Work(
            now=self._clock(),
            before=await self._shelves.load(conn, wanted) if wanted else {},
            sequences=sequences,
            seen=seen,
            blocked=await parked.blocked(conn, heard) if heard else set(),
            expected=expected,
        )

    def _take_heard(self, work: Work[S], heard: Heard) -> None:
        place = heard.topic, heard.partition
        expected = work.expected.get(place)
        if expected is None or heard.offset > expected:
            gap = f"{heard.topic}[{heard.partition}]: got offset {heard.offset}, next is {expected}"
            work.answers.append((heard, PositionGap(gap)))
            return
        work.answers.append((heard, None))
        if heard.offset < expected:
            self._meter.inputs.labels("fact", "stale").inc()
            return
        work.expected[place] = work.advanced[place] = heard.offset + 1
        if not heard.concerns:
            self._meter.inputs.labels("fact", "skipped").inc()
        elif heard.id in work.seen:
            self._meter.inputs.labels("fact", "duplicate").inc()
        elif heard.key in work.blocked:
            self._park(work, heard, "queued", "queued behind an earlier event of its key")
        elif heard.event is None or heard.refused:
            self._park(
                work,
                heard,
                "database" if heard.refused else "undecodable",
                heard.refused or heard.error or "",
            )
        else:
            try:
                step = hear(
                    self.decider, work.after[heard.key], heard.event, work.now, work.sequences[heard.key]
                )
                unpublished = [
                    outbox.unpublished(event, self._partition_of(event.key)) for event in step.events
                ]
            except Exception as error:
                self._park(work, heard, "handler", error)
                return
            number = work.sequences[heard.key] + 1
            self._record(
                work,
                heard,
                journal.entry(heard, step=number, now=work.now, outcome="applied", refusal=step.refusal),
            )
            work.after[heard.key] = step.state
            work.sequences[heard.key] = work.moved[heard.key] = step.sequence
            work.unpublished += unpublished

    def _take_asked(self, work: Work[S], asked: Asked) -> None:
        before = work.seen.get(asked.id)
        if before is not None:
            self._meter.inputs.labels("command", "duplicate").inc()
            same = before.fingerprint == asked.fingerprint
            work.answers.append((asked, before.answer if same else KeyReused()))
            return
        number = work.sequences[asked.key]
        try:
            step = obey(self.decider, work.after[asked.key], asked.command, work.now, number)
            unpublished = [outbox.unpublished(event, self._partition_of(event.key)) for event in step.events]
            decided = Decided(step.state, step.events, step.refusal)
            answer = asked.respond(decided)
        except Exception as error:
            log.exception("a handler raised", command=type(asked.command).__name__, id=str(asked.id))
            self._meter.inputs.labels("command", "failed").inc()
            work.answers.append((asked, Failed(repr(error))))
            return
        work.answers.append((asked, answer))
        outcome = "refused" if step.refusal else "applied"
        if not (answer.status < 300 or answer.status == 409):
            self._meter.inputs.labels("command", outcome).inc()
            return
        self._record(
            work,
            asked,
            journal.entry(
                asked, step=number, now=work.now, outcome=outcome, refusal=step.refusal, answer=answer
            ),
        )
        if step.refusal:
            return
        if step.events:
            work.after[asked.key] = step.state
            work.sequences[asked.key] = work.moved[asked.key] = step.sequence
            work.unpublished += unpublished
        if asked.aside:
            work.asides.append((asked.aside, decided))

    def _park(self, work: Work[S], heard: Heard, reason: str, error: BaseException | str) -> None:
        row = parked.park(heard, reason, error, work.now)
        log.warning(
            "parked",
            event_id=str(row.id),
            key=row.key,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            reason=reason,
            error=row.error,
            place=row.place,
        )
        work.to_park.append(row)
        work.blocked.add(heard.key)
        number = work.sequences[heard.key]
        self._record(work, heard, journal.entry(heard, step=number, now=work.now, outcome="parked"))

    def _record(self, work: Work[S], input: Input, entry: journal.Entry) -> None:
        """The same input later in this batch is a repeat."""
        self._meter.inputs.labels(entry.kind, entry.outcome).inc()
        log.debug(entry.outcome, id=entry.id, type=entry.type, key=entry.key, flow=entry.correlation_id)
        work.entries.append(entry)
        work.seen[input.id] = journal.Seen(
            entry.id,
            entry.outcome,
            entry.fingerprint,
            entry.answer_status,
            entry.answer_body,
            entry.answer_headers,
        )

    async def _write(self, conn: Connection, work: Work[S]) -> None:
        await self._shelves.save(conn, work.before, work.after)
        await journal.add(conn, work.entries)
        await outbox.add(conn, work.unpublished)
        await parked.add(conn, work.to_park)
        await keys.advance(conn, work.moved)
        await positions.advance(conn, work.advanced)
        for aside, decided in work.asides:
            await aside(conn, decided)

    def _tell(self, work: Work[S]) -> None:
        """Committed: answer whoever asked, wake whoever waits."""
        for input, answer in work.answers:
            _resolve(input, answer)
        for key in work.moved:
            self.waiters.wake(key)
        for callback in self.on_facts if work.unpublished else ():
            callback()
        for callback in self.on_commit if work.moved else ():
            callback()
        self._meter.facts.inc(len(work.unpublished))


def _is_due(heard: Heard, expected: dict[Place, int]) -> bool:
    """Worth locking its key for: it concerns this service, and was not committed before."""
    return heard.concerns and heard.offset >= expected.get((heard.topic, heard.partition), heard.offset + 1)


def _resolve(input: Input, answer: Answer | Exception | None) -> None:
    done: asyncio.Future[Any] = input.done
    with suppress(asyncio.InvalidStateError):
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            done.set_result(answer)
