"""Finds what there is to tell about an id: in a running system by its indexes, in a recording by reading it.

In a running system the journals know where the events lie that somebody hears. The others are looked for near
the time they were decided, in the one partition of their key; the journal says with which steps there must be
any. The log is read from end to end only for an id that is in no database. Nothing is written, no group
joined, nothing committed.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from choreo.chassis import clock
from choreo.chassis.database.connection import Connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.log_reader import LogReader, NothingCame, describe_retrying
from choreo.chassis.registry import all_topics, follows
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import outbox
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.catalog import topic_of
from choreo.message.codec import TopicRecord, decode
from choreo.replay.sources.live import read_spans
from choreo.replay.sources.records import Broken, Cut, Span
from choreo.replay.trace.ids import IdsOf, Named, Wanted, named_in, named_in_databases, the_one
from choreo.replay.trace.journals import JournalRow, journal_of, open_session
from choreo.replay.trace.published_events import PublishedEvent, event_in
from choreo.replay.trace.trace import Material, UnpublishedEvent, undecided, without_published

_FAR = 20_000
"""So many records are looked through at most for one that nobody hears."""
_NEAR = 500
"""So many records on, reading on is quicker than seeking."""
_CLOCKS = timedelta(seconds=1)
"""Kafka's clock and the services' may differ by so much."""
_FETCHED = 1 << 18
"""Bytes at a time."""

_FLOWS_OF_KEY = """/* trace.flows_of_key: with when each touched it first */
SELECT correlation_id, min(decided_at) FROM journal
WHERE key = %(key)s AND correlation_id IS NOT NULL GROUP BY correlation_id"""

_ASKED_TOGETHER = """/* trace.asked_together: whatever was asked about the same things as in these */
SELECT DISTINCT other.correlation_id FROM journal AS asked
JOIN journal AS other ON other.key = asked.key AND other.kind = 'command'
    AND other.command->>%(field)s::text = asked.command->>%(field)s::text
WHERE asked.correlation_id = ANY(%(flows)b::uuid[]) AND asked.kind = 'command'"""

_CAME = """/* trace.came: what decided what had waited for it */
SELECT correlation_id FROM journal
WHERE key = ANY(%(keys)b::text[]) AND type = %(type)s AND outcome = 'applied'"""

_UNPUBLISHED = """/* trace.unpublished */
SELECT event_id, key, partition, value, headers, decided_at FROM outbox WHERE key = ANY(%(keys)b::text[])"""


async def find(
    access: KafkaAccess | None,
    urls: Mapping[str, str],
    settings: Settings,
    partition_of: Callable[[str], int],
    ids: IdsOf,
    id: str,
    limit: int,
    progress: Callable[[str, int, int], None],
) -> Material | None:
    """Looks in the running system: of a user, for the `limit` newest flows. Returns None for an unknown id.

    Without Kafka there are no events, and all there is to tell is what the journals hold.
    `progress` hears what is done, how much of it is, and of how much: what each input heard and decided.
    Raises psycopg.Error, `Broken`, what is in `LOG_UNREADABLE`, and `UsageError` where several have the id.
    """
    async with sessions(urls) as conns:
        named = await _named(
            access, settings, conns, ids, Wanted.of(id), partial(progress, "reading the log")
        )
        if not named:
            return None
        flows, left_out = await _flows(conns, named, limit)
        return await material_of(
            access, conns, settings, partition_of, ids, flows, partial(progress, "looking up"), left_out
        )


@asynccontextmanager
async def sessions(urls: Mapping[str, str]) -> AsyncIterator[dict[str, Connection]]:
    """Opens one with each service's database.

    Each sees one moment. What was decided by then is in its outbox, or lies in Kafka already.
    """
    async with AsyncExitStack() as stack:
        yield {
            service: await stack.enter_async_context(await open_session(url)) for service, url in urls.items()
        }


async def material_of(
    access: KafkaAccess | None,
    conns: Mapping[str, Connection],
    settings: Settings,
    partition_of: Callable[[str], int],
    ids: IdsOf,
    flows: Collection[UUID],
    progress: Callable[[int, int], None],
    left_out: int = 0,
) -> Material:
    """Returns all that is known of these flows, and of those that were asked together with them."""
    flows = {*flows, *await _asked_together(conns, ids, flows)}
    journals = {name: await journal_of(conn, name, [], flows) for name, conn in conns.items()}
    if access is None:
        now = clock.now()
        return Material(
            flows=flows, events=(), journals=journals, now=now, left_out=left_out, events_are_kept=False
        )
    entries = [(name, entry) for name, journal in journals.items() for entry in journal.entries]
    keys = sorted({entry.key for _, entry in entries})
    unpublished = [fact for conn in conns.values() for fact in await _outbox(conn, keys)]
    async with LogReader(access, fetch_bytes=_FETCHED) as reader:
        log = _Log(reader, settings.topic_prefix, keys, partition_of)
        await log.fetch([entry for _, entry in entries], lambda done: progress(done, 2 * len(entries)))
        lost = set()
        for done, (service, entry) in enumerate(entries, len(entries)):
            progress(done, 2 * len(entries))
            if not await log.has_all_of(service, entry, unpublished):
                lost.add(entry.id)
        # They may have waited, as for an account, and what was decided then nobody may have heard yet.
        for service, type in _came_for(undecided(log.of(flows))):
            came = await _column(conns[service], _CAME, keys=keys, type=type)
            for entry in (await journal_of(conns[service], service, [], came)).entries:
                await log.has_all_of(service, entry, unpublished)
        events = log.of(flows)
    return Material(
        flows=flows,
        events=events,
        journals={name: await journal_of(conn, name, events, flows) for name, conn in conns.items()},
        unpublished=[fact for fact in without_published(unpublished, events) if fact.flow in flows],
        lost=lost,
        now=clock.now(),
        left_out=left_out,
    )


async def _named(
    access: KafkaAccess | None,
    settings: Settings,
    conns: Mapping[str, Connection],
    ids: IdsOf,
    wanted: Wanted,
    progress: Callable[[int, int], None],
) -> list[Named]:
    """Returns what has this id. What no database knows is looked for in the log, from end to end."""
    found = the_one(await named_in_databases(conns, ids, wanted), wanted)
    if found or access is None or wanted.first is None:
        return found
    logs = await describe_retrying(access, all_topics(settings.topic_prefix))
    spans = {place: Span(log.earliest, log.earliest, log.latest) for place, log in logs.items()}
    cut = Cut(spans, (), settings.topic_prefix, {})
    size, done = sum(log.latest - log.earliest for log in logs.values()), 0
    async for records in read_spans(access, cut):
        found += named_in(records, ids, wanted)
        progress(done := done + len(records), size)
    return the_one(found, wanted)


async def _flows(
    conns: Mapping[str, Connection], named: Sequence[Named], limit: int
) -> tuple[set[UUID], int]:
    """Returns theirs; of what is about a key its newest ones, and how many were left out."""
    flows = {one.flow for one in named if one.flow}
    of_key = next((one.key for one in named if one.flow is None), None)
    return (flows, 0) if of_key is None else await _newest(conns, of_key, limit)


async def _newest(conns: Mapping[str, Connection], key: str, limit: int) -> tuple[set[UUID], int]:
    began: dict[UUID, datetime] = {}
    for conn in conns.values():
        for flow, at in await (await conn.execute(_FLOWS_OF_KEY, {"key": key})).fetchall():
            began[flow] = min(at, began.get(flow, at))
    newest = sorted(began, key=lambda flow: began[flow], reverse=True)[:limit]
    return set(newest), len(began) - len(newest)


def _came_for(waiting: Mapping[str, Collection[UUID]]) -> Iterable[tuple[str, str]]:
    """Yields by service the type of the fact for which these have waited."""
    for (service, _), follow in follows().items():
        if follow.waits_for and waiting.get(service):
            yield service, follow.waits_for.__name__


async def _asked_together(conns: Mapping[str, Connection], ids: IdsOf, flows: Collection[UUID]) -> set[UUID]:
    """Returns the flows that cancelled what these placed, or placed what these cancelled, and the like."""
    fields = {(service, id.in_commands) for service in conns for id in ids[service] if id.in_commands}
    return {
        flow
        for service, field in fields
        for flow in await _column(conns[service], _ASKED_TOGETHER, field=field, flows=list(flows))
    }


async def _column(conn: Connection, query: str, **values: Any) -> list[Any]:
    return [value for (value,) in await (await conn.execute(query.encode(), values)).fetchall()]


async def _outbox(conn: Connection, keys: Sequence[str]) -> list[UnpublishedEvent]:
    async with conn.cursor(row_factory=class_row(outbox.OutboxRow)) as cursor:
        await cursor.execute(_UNPUBLISHED, {"keys": keys})
        return [UnpublishedEvent.of(decode(row.record)) for row in await cursor.fetchall()]


class _Log:
    """Finds single events in the topics."""

    def __init__(
        self, reader: LogReader, prefix: str, keys: Collection[str], partition_of: Callable[[str], int]
    ) -> None:
        self._reader = reader
        self._prefix, self._partition_of = prefix, partition_of
        self._topics = set(all_topics(prefix))
        self._keys = {key.encode() for key in keys}
        self._found: dict[tuple[str, int, int], PublishedEvent] = {}
        self._steps: set[tuple[str, str, int]] = set()
        """Source, key and sequence of what was found."""

    def of(self, flows: Collection[UUID]) -> list[PublishedEvent]:
        return [event for event in self._found.values() if event.flow in flows]

    async def fetch(self, entries: Iterable[JournalRow], progress: Callable[[int], None]) -> None:
        """Finds whatever somebody heard, and on the way what lies near it, such as its repetition."""
        wanted: dict[TopicPartition, set[int]] = {}
        for entry in entries:
            if entry.topic not in self._topics:
                continue  # it was brought by a call, and lies where its own service put it
            if entry.partition is not None and entry.offset is not None:
                wanted.setdefault((entry.topic, entry.partition), set()).add(entry.offset)
        done = 0
        for place, offsets in wanted.items():
            next_offset = -_NEAR
            for offset in sorted(offsets):
                if offset >= next_offset + _NEAR:
                    self._reader.assign({place: offset})
                    next_offset = offset
                while next_offset <= offset:
                    next_offset = await self._read(place, next_offset)
                progress(done := done + 1)

    async def has_all_of(
        self, service: str, entry: JournalRow, unpublished: Iterable[UnpublishedEvent]
    ) -> bool:
        """Looks for all that this input decided, from that time on; tells whether it is there."""
        known = self._steps | {(fact.source, fact.key, fact.sequence) for fact in unpublished}
        steps = range(entry.step + 1, entry.step + entry.facts + 1)
        missing = {(service, entry.key, step) for step in steps} - known
        if not missing:
            return True
        place = self._prefix + topic_of(service), self._partition_of(entry.key)
        begin = await self._reader.first_since(place, entry.decided_at - _CLOCKS)
        end = await self._reader.latest(place)
        if begin is None:
            return False
        self._reader.assign({place: begin})
        next_offset = begin
        while missing - self._steps and next_offset < min(end, begin + _FAR):
            next_offset = await self._read(place, next_offset)
        return not missing - self._steps

    async def _read(self, place: TopicPartition, next_offset: int) -> int:
        """Keeps some more. Returns the offset after it. Raises `Broken`."""
        try:
            async for fetched in self._reader.read_on(place):
                self._keep(fetched.records)
                next_offset = fetched.next_offset
        except NothingCame as silence:
            raise Broken(str(silence)) from None
        return next_offset

    def _keep(self, records: Iterable[TopicRecord]) -> None:
        for record in records:
            if record.record.key in self._keys and (event := event_in(record)):
                self._found[event.topic, event.partition, event.offset] = event
                self._steps.add((event.source, event.key, event.sequence))
