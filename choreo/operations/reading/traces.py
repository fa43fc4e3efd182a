"""From the journals to whoever shows traces: followed as the observer, beside the services and not in them.

What was written since the last look names flows; each is looked up as `choreo trace` looks it up. Whoever
begins anew, after a restart or because something was away, begins a little before what is told: what was sent
then is sent again, and is the same.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import islice
from uuid import UUID

import psycopg

from choreo.chassis.database.connection import Connection
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.operations.reading.flows import look_up
from choreo.operations.reading.installation import Installation
from choreo.replay.sources.records import Broken
from choreo.replay.trace.find import sessions
from choreo.replay.trace.spans import Span, spans_of
from choreo.replay.trace.tail import Tail
from choreo.replay.trace.trace import Material

UNREADABLE = (psycopg.Error, *LOG_UNREADABLE, Broken, OSError)
"""What a look raises where a database or Kafka is away: it is to be repeated."""
AGAIN = timedelta(seconds=30)
"""So long before the end of what was told it is begun anew. No transaction is open for longer after the time
that its decisions have (`choreo/chassis/database/connection.py`)."""
_AT_ONCE = 50
"""Flows that are looked up together."""
_MOST_KNOWN = 10_000
"""Flows of which something is still to be told: at more, nothing further is read of the journals."""
_LOST_AFTER = timedelta(minutes=1)
"""So long a flow is looked up again for what should be in Kafka, and is in no outbox either."""
_REMEMBERED = 20_000
"""Spans that are not sent again."""


class CollectorAway(Exception):
    """Whoever should take the spans did not. The message says why; sending them again is harmless."""


class Follower:
    """Looks again and again. Raises what is in `UNREADABLE`, and `CollectorAway`; then it may go on."""

    def __init__(
        self, installation: Installation, take: Callable[[Sequence[Span]], None], since: datetime
    ) -> None:
        """`take` returns once the spans have arrived, and raises `CollectorAway`."""
        self._here, self._take = installation, take
        services = {name: installation.service(name) for name in installation.database_urls}
        prefix = installation.settings.topic_prefix
        self._groups = {name: service.group(prefix) for name, service in services.items()}
        self._mailing = {name for name, service in services.items() if service.sends_mail}
        self._stack, self._conns = AsyncExitStack(), dict[str, Connection]()
        self._taken: OrderedDict[str, None] = OrderedDict()
        self.count = 0
        """Of the spans that were taken."""
        self._told = since
        self._begin(since)

    def _begin(self, since: datetime) -> None:
        self._tails = {service: Tail(since) for service in self._here.database_urls}
        self._due: dict[UUID, datetime] = {}
        """Flows that are to be looked up, by when something of theirs was decided."""
        self._late: dict[UUID, datetime] = {}
        """Those that are to be looked up again, as something of theirs is not in Kafka yet."""

    @property
    def told_until(self) -> datetime:
        """Whatever was decided before this is told; but see `AGAIN`."""
        read = (tail.until for tail in self._tails.values())
        return max(self._told, min([*read, *self._due.values(), *self._late.values()]))

    def has_told(self, until: datetime) -> bool:
        """Whether all of that is told, but for what has not come into Kafka for long."""
        read = all(tail.until >= until for tail in self._tails.values())
        return read and not self._due and all(at < until - _LOST_AFTER for at in self._late.values())

    async def look(self) -> bool:
        """Tells of some flows, the oldest first. Returns whether there are more to be told at once."""
        try:
            return await self._look()
        except BaseException:
            await self.close()
            self._told = self.told_until
            self._begin(self._told - AGAIN)
            raise

    async def close(self) -> None:
        self._conns = {}
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _look(self) -> bool:
        if not self._conns:
            self._conns = await self._stack.enter_async_context(sessions(self._here.database_urls))
        due = nsmallest(_AT_ONCE, self._due, key=self._due.__getitem__)  # from earlier looks: mostly over
        flows = {*due, *islice(self._late, _AT_ONCE - len(due))}
        reads = len(self._due) + len(self._late) < _MOST_KNOWN
        if reads:
            await self._read_on()
        material = await look_up(self._here, self._conns, flows) if flows else None
        for conn in self._conns.values():
            await conn.rollback()
        if material:
            await self._tell(material)
            self._forget_told(material)
        behind = reads and not all(tail.is_at_the_end for tail in self._tails.values())
        return behind or len(due) == _AT_ONCE

    async def _read_on(self) -> None:
        for service, tail in self._tails.items():
            before = tail.until
            for row in await tail.look(self._conns[service]):
                if row.flow:
                    at = max(row.decided_at, before)
                    self._due[row.flow] = min(at, self._due.get(row.flow, at))

    async def _tell(self, material: Material) -> None:
        spans = [one for one in spans_of(material, self._groups, self._mailing) if one.id not in self._taken]
        await asyncio.to_thread(self._take, spans)
        self.count += len(spans)
        self._taken.update(dict.fromkeys(span.id for span in spans))
        while len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)

    def _forget_told(self, material: Material) -> None:
        entries = (entry for journal in material.journals.values() for entry in journal.entries)
        lost = {entry.flow for entry in entries if entry.id in material.lost}
        unpublished = {fact.flow for fact in material.unpublished}
        for flow in material.flows:
            times = [known.pop(flow) for known in (self._due, self._late) if flow in known]
            if times and (flow in unpublished or (flow in lost and min(times) > material.now - _LOST_AFTER)):
                self._late[flow] = min(times)
