"""What the services' databases have written down about events: read, and never written."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection, session
from choreo.chassis.registry import description_of
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.positions import TopicPartition
from choreo.replay.trace.published_events import PublishedEvent

_CONNECT_WITHIN = 5
_LOOK_AGAIN = 0.02

_ENTRIES = """/* journals.entries: what became of these events and flows, and which inputs decided them */
SELECT journal.id, journal.key, step, kind, journal.type, journal.topic, journal.partition, journal."offset",
    CASE WHEN parked.reason = 'queued' THEN 'queued' ELSE outcome END AS outcome, received_at, decided_at,
    CASE WHEN current_setting('track_commit_timestamp')::bool
        THEN pg_xact_commit_timestamp(journal.xmin) END AS committed_at,
    correlation_id AS flow, refusal, command->'cause' AS cause, answer_status AS status,
    CASE WHEN parked.reason = 'queued' AND head.id <> parked.id
        THEN 'behind ' || coalesce(head.type, 'a record') || ': ' || head.error
        ELSE parked.error END AS error,
    CASE WHEN parked.reason = 'queued' THEN head.place ELSE parked.place END AS source_line,
    CASE WHEN outcome = 'applied' THEN coalesce(next.first, keys.sequence, step) - step ELSE 0 END AS facts
FROM journal
LEFT JOIN keys ON keys.key = journal.key
LEFT JOIN parked ON parked.id = journal.id
LEFT JOIN LATERAL (
    SELECT id, type, error, place FROM parked AS first
    WHERE first.key = parked.key ORDER BY position LIMIT 1) AS head ON true
LEFT JOIN LATERAL (
    SELECT later.step - (kind = 'fact')::int AS first FROM journal AS later
    WHERE later.key = journal.key AND later.position > journal.position AND later.outcome = 'applied'
    ORDER BY later.position LIMIT 1) AS next ON true
WHERE journal.id = ANY(%(ids)b::uuid[]) OR correlation_id = ANY(%(flows)b::uuid[])
    OR journal.key = ANY(%(keys)b::text[]) AND decided_at = ANY(%(times)b::timestamptz[])
ORDER BY journal.position"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """A row of a journal: what a service was asked or heard, and what it did with it.

    With what the tables beside it and the rows after it tell, for people to read. What a replay needs of the
    row is another thing, and all of it is in the row: `choreo.replay.sources.records.JournalEntry`.
    """

    id: UUID
    key: str
    step: int
    kind: str
    type: str
    topic: str | None
    partition: int | None
    offset: int | None
    outcome: str
    """applied, refused, parked, queued (parked behind another event of its key) or dropped."""
    received_at: datetime | None
    """None in rows older than this column."""
    decided_at: datetime
    committed_at: datetime | None
    """None where the server does not keep it. Taken before the commit is flushed to disk."""
    flow: UUID | None = None
    """None for a record that could not be read."""
    refusal: dict[str, Any] | None = None
    """Its type and its numbers."""
    cause: dict[str, Any] | None = None
    """Of a command what it follows from: a `choreo.message.envelope.Cause`. A recording's row has none."""
    status: int | None = None
    """That of the answer, where somebody had one. A recording's row has none."""
    error: str | None = None
    """Why it is parked, or what it queues behind."""
    source_line: str | None = None
    """File and line that raised."""
    facts: int = 0
    """How many were decided in its transaction because of it: those with the key's steps that follow."""

    @property
    def came_at(self) -> datetime:
        """When the service had it, as far as that is known."""
        return self.received_at or self.decided_at


@dataclass(frozen=True)
class Journal:
    """What one service has written down about some events."""

    entries: Sequence[JournalRow] = ()
    """In the order of handling."""
    next_offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    """How far it has read each partition; only of topics of which it hears something."""
    waiting: frozenset[UUID] = frozenset()
    """Those of the events that lack a prerequisite."""

    def has_read(self, event: PublishedEvent) -> bool | None:
        """None: it does not read that topic."""
        next_offset = self.next_offsets.get((event.topic, event.partition))
        return None if next_offset is None else event.offset < next_offset


class JournalReader:
    """Reads journals. `urls` are the databases', by service. Sessions are open only while it reads."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls

    async def read(self, events: Sequence[PublishedEvent], seconds: float) -> dict[str, Journal]:
        """Returns journals by service, each once the service has read these events, or after so many seconds.

        Raises psycopg.Error where a database cannot be asked.
        """
        try:
            async with asyncio.TaskGroup() as group:
                reading = {
                    service: group.create_task(self._read(service, events, seconds)) for service in self._urls
                }
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {service: task.result() for service, task in reading.items()}

    async def _read(self, service: str, events: Sequence[PublishedEvent], seconds: float) -> Journal:
        deadline = asyncio.get_running_loop().time() + seconds
        async with await open_session(self._urls[service]) as conn:
            while True:
                async with conn.transaction():
                    journal = await journal_of(conn, service, events)
                read = all(journal.has_read(event) is not False for event in events)
                if read or asyncio.get_running_loop().time() > deadline:
                    return journal
                await asyncio.sleep(_LOOK_AGAIN)


async def open_session(url: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Opens a session that cannot write; each of its transactions sees one moment."""
    conn = await psycopg.AsyncConnection.connect(**session(url, connect_timeout=_CONNECT_WITHIN))
    await conn.set_read_only(True)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    return conn


async def journal_of(
    conn: Connection,
    service: str,
    events: Sequence[PublishedEvent],
    flows: Collection[UUID] = (),
    ids_besides: Collection[UUID] = (),
) -> Journal:
    """Runs inside a transaction that sees one moment, so that whatever was read is journaled."""
    ids = [event.id for event in events]
    causes = [event.cause for event in events if event.cause]
    own = [event for event in events if event.source == service]
    async with conn.cursor(row_factory=class_row(JournalRow)) as cursor:
        wanted = {
            "ids": [*ids, *causes, *ids_besides],
            "flows": list(flows),
            "keys": sorted({event.key for event in own}),
            "times": sorted({event.at for event in own}),
        }
        await cursor.execute(_ENTRIES, wanted)
        entries = await cursor.fetchall()
    read = await positions.read(conn, sorted({event.topic for event in events}))
    waiting: list[tuple[UUID]] = []
    waits = description_of(service).waiting
    if waits and waits.of_events:
        waiting = await (await conn.execute(waits.of_events.encode(), [ids])).fetchall()
    return Journal(
        entries,
        {position.place: position.next_offset for position in read},
        frozenset(id for (id,) in waiting),
    )
