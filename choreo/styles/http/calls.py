"""From the outbox to whoever is called: in order of the key, at least once, and what they answer back to us.

A fact of ours stays in the outbox until all it must be told have it, and until whatever they decided because
of it is applied here and has gone on to whoever else must hear of it. Only then its callees may forget their
answers. So whoever is killed, between any two calls, finds what is left to do in the outbox, and does it
again: what was told before is recognised by its id and answered with the same facts.

A request waits for its own calls, a moment. Whoever is away or silent holds up no other callee and no other
key; what could not be told is told by the sweep.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Protocol
from uuid import UUID

import structlog
from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, own_connection
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.styles.http.callee import CalleeAway
from choreo.styles.http.door import Door
from choreo.styles.http.wire import headers_of, type_of

REQUEST_WAITS_SECONDS = 3.0
"""For what follows from it. Then it is answered, and what is left is for the sweep."""
_SWEEP_SECONDS = 1.0
_LOOK_THROUGH_SECONDS = 60.0
"""So often the whole outbox is looked through, and not what is new: a slow transaction commits a position
lower than those that were seen."""
_DATABASE_TIMEOUT_SECONDS = 5.0
_AT_ONCE = 1000
_ANSWERED_AT_ONCE = 100
_CALLS = "calls"

_NEW = """/* outbox.new: what this process has not seen */
SELECT position, event_id, key, partition, value, headers, decided_at FROM outbox
WHERE position > %s AND position <> ALL(%b::bigint[]) ORDER BY position LIMIT %s"""

log = structlog.get_logger()


class Recipient(Protocol):
    """A service that is called, or a topic."""

    @property
    def name(self) -> str: ...
    @property
    def is_away(self) -> bool: ...
    @property
    def trouble(self) -> str | None: ...
    async def tell(
        self, key: str, facts: Sequence[OutboxRow], after: UUID | None = None
    ) -> Sequence[OutboxRow]: ...
    async def settle(self, ids: Sequence[UUID]) -> None: ...


@dataclass(eq=False)
class _Known:
    """A fact of ours, or one that a callee has decided."""

    fact: OutboxRow
    missing: set[str]
    """Who has not heard it yet; ourselves among them."""


@dataclass(eq=False)
class _Key:
    """What is under way of one key, in order."""

    facts: dict[UUID, _Known] = field(default_factory=dict)
    working: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """By lane: those who are called are not kept waiting by a topic."""
    again: set[str] = field(default_factory=set)
    """Lanes for which something came while they were worked on."""


class Calls:
    def __init__(
        self,
        service: str,
        callees: Sequence[Recipient],
        topics: Sequence[Recipient],
        callers: Collection[str],
        consumers: Mapping[str, Collection[str]],
        door: Door,
        engine: AsyncEngine,
        *,
        job: Job,
        meter: Meter,
    ) -> None:
        """`consumers` are the services that hear of each type. `topics` are told whatever is ours."""
        self._service = service
        self._recipients = {recipient.name: recipient for recipient in (*callees, *topics)}
        self._lanes = {_CALLS: callees, "topics": topics}
        self._callers = frozenset(callers)
        self._consumers = consumers
        self._answering = {SOURCE_OF_TYPE[type] for type, them in consumers.items() if service in them}
        """Whose facts we consume."""
        self._topics = frozenset(topic.name for topic in topics)
        self._door = door
        self._engine = engine
        self._job = job
        self._meter = meter
        self._keys: dict[str, _Key] = {}
        self._seen: set[int] = set()
        """Positions of the outbox that were read and are still there."""
        self._finished: list[_Known] = []
        self._unsettled: dict[str, dict[UUID, bool]] = {name: {} for name in self._recipients}
        """Facts of callees with which all is done, by callee; and whether that is so in our outbox."""
        self._removed = asyncio.Event()
        self._woken = asyncio.Event()
        self._look_ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._floor = self._mark = self._highest = 0
        self._looked_through_at = self._swept_at = -_LOOK_THROUGH_SECONDS

    # -- the way in ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was decided in this process."""
        self._woken.set()

    async def through(self, key: str, seconds: float = REQUEST_WAITS_SECONDS) -> None:
        """Returns once all calls that follow from what is committed of this key are made, or have failed; at
        the latest after so many seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.look()
                while (known := self._keys.get(key)) and (working := known.working.get(_CALLS)):
                    await asyncio.wait([working])

    async def sweep(self, seconds: float) -> None:
        """Tries everything once that is under way; at the latest it returns after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._swept_at = -_SWEEP_SECONDS
                await self.look()
                await self.look()  # the sweep of the first has begun
                while working := [task for known in self._keys.values() for task in known.working.values()]:
                    await asyncio.wait(working)

    async def look(self) -> None:
        """Returns after a look into the outbox that began after this call."""
        self._woken.set()
        await asyncio.shield(self._look_ends)

    def for_caller(self, caller: str, key: str, after: UUID | None = None) -> list[OutboxRow]:
        """What this caller still has to be answered with: of this key; or of all, and then the first of those
        that come after this fact.
        """
        if key:
            keys: Iterable[_Key] = [self._keys[key]] if key in self._keys else []
        else:
            keys = self._keys.values()
        found = [one.fact for known in keys for one in known.facts.values() if caller in one.missing]
        if key:
            return found
        begin = next((number for number, fact in enumerate(found, 1) if fact.event_id == after), 0)
        return found[begin : begin + _ANSWERED_AT_ONCE]

    async def settled(self, caller: str, ids: Collection[UUID]) -> None:
        """This caller has these facts."""
        await self.look()
        for key in list(self._keys):
            known = self._keys[key]
            for id in known.facts.keys() & set(ids):
                known.facts[id].missing.discard(caller)
            self._forget_if_finished(key)

    # -- the loop ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled. Whatever is away is waited out."""
        attending = [asyncio.ensure_future(self._attend(one)) for one in self._recipients.values()]
        try:
            while True:
                try:
                    async with own_connection(self._engine) as conn:
                        # A removal that is lost with the power means that it is told once more.
                        await conn.execute("SET synchronous_commit = off")
                        while True:
                            await self._round(conn)
                except Exception as error:
                    log.warning("the outbox cannot be read, trying again", error=repr(error))
                    self._job.held_up(f"the outbox cannot be read: {type(error).__name__}")
                await asyncio.sleep(_SWEEP_SECONDS)
        finally:
            for task in (*attending, *(task for one in self._keys.values() for task in one.working.values())):
                task.cancel()

    async def _round(self, conn: Connection) -> None:
        """Looks for what is new and begins to tell it; removes what is finished; waits for news."""
        self._woken.clear()
        ends, self._look_ends = self._look_ends, asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_SECONDS):
                more = await self._look(conn)
                await self._remove_finished(conn)
        finally:
            ends.set_result(None)
        if time.monotonic() >= self._swept_at + _SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            for key, known in list(self._keys.items()):
                if not self._is_away(known):
                    self._work_on(key)
            self._say_how_it_gets_on()
        if not more:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._woken.wait()

    async def _look(self, conn: Connection) -> bool:
        """Whether there is more than it read."""
        floor = self._floor
        if time.monotonic() >= self._looked_through_at + _LOOK_THROUGH_SECONDS:
            self._looked_through_at = time.monotonic()
            floor, self._floor, self._mark = 0, self._mark, self._highest
        seen = [position for position in self._seen if position > floor]
        async with conn.cursor(row_factory=class_row(OutboxRow)) as cursor:
            await cursor.execute(_NEW.encode(), [floor, seen, _AT_ONCE])
            rows = await cursor.fetchall()
        for row in rows:
            self._highest = max(self._highest, row.position)
            self._seen.add(row.position)
            self._take(row)
        for key in {row.key for row in rows}:
            self._work_on(key)
        return len(rows) == _AT_ONCE

    async def _remove_finished(self, conn: Connection) -> None:
        """Only then a callee may forget what it answered: if this ends in between, it is asked once more, and
        what it answers is recognised.
        """
        finished, self._finished = self._finished, []
        try:
            await outbox.remove(conn, ours := [one.fact.position for one in finished if one.fact.position])
        except BaseException:
            self._finished = finished + self._finished
            raise
        self._seen.difference_update(ours)
        self._meter.published.inc(len(ours))
        for one in finished:
            if not one.fact.position:
                self._unsettled[_source_of(one.fact)][one.fact.event_id] = True
                self._removed.set()

    async def _attend(self, recipient: Recipient) -> None:
        """Lets it forget what it answered, and asks for what it has for us that no call of ours brought: the
        payment of an order that waited for its account; what was answered to a process that was killed.
        """
        after: UUID | None = None
        ask_at = 0.0
        while True:
            self._removed.clear()
            try:
                settled = [id for id, removed in self._unsettled[recipient.name].items() if removed]
                if settled:
                    await recipient.settle(settled[:_AT_ONCE])
                    for id in settled[:_AT_ONCE]:
                        del self._unsettled[recipient.name][id]
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + _SWEEP_SECONDS
                    answers = await recipient.tell("", (), after)
                    after = answers[-1].event_id if answers else None
                    self._take_answers(recipient.name, answers)
                    if recipient.name not in self._answering:
                        ask_at = inf
            except Exception as error:
                log.debug("cannot be asked", callee=recipient.name, error=repr(error))
                ask_at = 0.0
                await asyncio.sleep(_SWEEP_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._removed.wait()

    # -- one key -------------------------------------------------------------------------------------

    def _take(self, fact: OutboxRow) -> None:
        """Ours goes to whoever consumes it: those we call, those that call us, and the topic."""
        consumers = set(self._consumers.get(type_of(fact), ()))
        missing = consumers & (self._recipients.keys() | self._callers) | self._topics
        known = self._keys.setdefault(fact.key, _Key())
        known.facts[fact.event_id] = _Known(fact, missing)

    def _take_answers(self, callee: str, facts: Iterable[OutboxRow]) -> None:
        """A callee's go to ourselves, and to whoever else we call and consumes them."""
        for fact in facts:
            known = self._keys.get(fact.key) or _Key()
            if fact.event_id in known.facts or fact.event_id in self._unsettled[callee]:
                continue
            self._keys[fact.key] = known
            consumers = set(self._consumers.get(type_of(fact), ()))
            missing = consumers & (self._recipients.keys() | {self._service}) - {callee}
            known.facts[fact.event_id] = _Known(fact, missing)
            self._work_on(fact.key)

    def _work_on(self, key: str) -> None:
        known = self._keys[key]
        known.again |= self._lanes.keys()
        for lane in self._lanes.keys() - known.working.keys():
            known.working[lane] = asyncio.ensure_future(self._work(lane, key, known))

    async def _work(self, lane: str, key: str, known: _Key) -> None:
        """Tells it to each in turn, and takes what one answers along to the next."""
        try:
            while lane in known.again:
                known.again.discard(lane)
                if lane == _CALLS:
                    await self._hear(known)
                for recipient in self._lanes[lane]:
                    with suppress(CalleeAway):
                        await self._tell(recipient, key, known)
        except Exception as error:
            log.warning("what was answered cannot be applied, trying again", error=repr(error))
        finally:
            del known.working[lane]
            self._forget_if_finished(key)

    async def _tell(self, recipient: Recipient, key: str, known: _Key) -> None:
        due = [one for one in known.facts.values() if recipient.name in one.missing]
        if not due:
            return
        answers = await recipient.tell(key, [one.fact for one in due])
        for one in due:
            one.missing.discard(recipient.name)
        self._job.got_on(self._job.state.waiting)
        if answers:
            self._take_answers(recipient.name, answers)
            await self._hear(known)

    async def _hear(self, known: _Key) -> None:
        """What is answered is applied here before anybody else is told."""
        due = [one for one in known.facts.values() if self._service in one.missing]
        if due:
            await self._door.hear([one.fact for one in due])
            for one in due:
                one.missing.discard(self._service)

    def _forget_if_finished(self, key: str) -> None:
        known = self._keys.get(key)
        if known is None or known.working or any(one.missing for one in known.facts.values()):
            return
        del self._keys[key]
        for one in known.facts.values():
            if not one.fact.position:
                self._unsettled[_source_of(one.fact)][one.fact.event_id] = False
        self._finished += known.facts.values()
        self._woken.set()

    # -- how it gets on ------------------------------------------------------------------------------

    def _is_away(self, known: _Key) -> bool:
        """Whether all that this still waits for is away; those that call us come by themselves."""
        missing = {name for one in known.facts.values() for name in one.missing}
        waited = [self._recipients[name] for name in missing if name in self._recipients]
        return self._service not in missing and all(recipient.is_away for recipient in waited)

    def _say_how_it_gets_on(self) -> None:
        untold = sum(
            bool(one.missing - self._callers) for known in self._keys.values() for one in known.facts.values()
        )
        if untold:
            self._job.has(untold)
        else:
            self._job.got_on()
        troubles = [one.trouble for one in self._recipients.values() if one.trouble]
        if troubles:
            self._job.held_up("; ".join(troubles), serves=True)


def _source_of(fact: OutboxRow) -> str:
    return headers_of(fact)["ce_source"].removeprefix("/")
