"""Whose id it is that somebody has at hand: whole, its beginning, a name, or a request's `traceparent`.

Every journal knows events, commands, flows and keys. What else a service can be asked for by id it declares
itself (`choreo.chassis.service.Id`). What is in no database, such as the id of a payment, facts name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any
from uuid import UUID

from choreo.chassis.database.connection import Connection
from choreo.chassis.service import Id
from choreo.errors import UsageError
from choreo.message.codec import Record, TopicRecord, Undecodable, UnknownType, decode, type_in
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.records import Item, JournalEntry, OutboxRecord
from choreo.replay.trace.journals import open_session

_FEWEST = 8
"""So many leading characters of an id are enough to ask by."""
_HYPHENS = (8, 12, 16, 20)
"""Of an id's digits, those before which there is one."""
_SHOWN = 5
_BEGINNING = re.compile(rf"[0-9a-f]{{{_FEWEST},32}}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

IdsOf = Mapping[str, Sequence[Id]]
"""What each service can be asked for, by its name."""

_IN_JOURNAL = """/* ids.in_journal: inputs, flows and keys */
SELECT type, id::text, key, correlation_id FROM journal
WHERE id BETWEEN %(first)s AND %(last)s AND correlation_id IS NOT NULL
UNION ALL
SELECT 'flow', correlation_id::text, min(key), correlation_id FROM journal
WHERE correlation_id BETWEEN %(first)s AND %(last)s GROUP BY correlation_id
UNION ALL
SELECT DISTINCT 'user', key, key, NULL::uuid FROM journal
WHERE key BETWEEN %(first)s::text AND %(last)s::text"""

_OF_KEY = "/* ids.of_key */ SELECT 'key', key, key, NULL::uuid FROM journal WHERE key = %(text)s LIMIT 1"

_OF_TRACE = """/* ids.of_trace: by no index, so asked last */
SELECT DISTINCT 'trace', %(trace)s, key, correlation_id FROM journal
WHERE kind = 'command' AND command->'cause'->>'trace_id' = %(trace)s"""


@dataclass(frozen=True)
class Wanted:
    """What somebody typed or pasted."""

    text: str
    first: UUID | None = None
    """Of the ids that it may be the beginning of."""
    last: UUID | None = None
    beginning: str = ""
    """As ids are written."""
    trace: str | None = None
    """Of a `traceparent`, and of what may be the trace id in it."""

    @staticmethod
    def of(text: str) -> "Wanted":
        text = text.strip().strip("…")
        written = text.lower()
        if found := _TRACEPARENT.fullmatch(written):
            written = found[1]
        digits = written.removeprefix("urn:uuid:").strip("{}").replace("-", "")
        if not _BEGINNING.fullmatch(digits):
            return Wanted(text)
        first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        length = len(digits) + sum(len(digits) > place for place in _HYPHENS)
        return Wanted(text, first, last, str(first)[:length], digits if first == last else None)

    def is_of(self, id: object) -> bool:
        return bool(self.beginning) and str(id).startswith(self.beginning)

    @property
    def is_cut_short(self) -> bool:
        return self.first != self.last

    @property
    def values(self) -> dict[str, Any]:
        return {"text": self.text, "first": self.first, "last": self.last, "trace": self.trace}


@dataclass(frozen=True, slots=True)
class Named:
    """Something that has this id."""

    what: str
    id: str
    key: str
    flow: UUID | None
    """None: it is about all flows of its key."""


def the_one(found: Iterable[Named], wanted: Wanted) -> list[Named]:
    """Returns what has the id: one id, and whatever has it. Raises `UsageError` where there are several."""
    by_id: dict[str, list[Named]] = {}
    for named in found:
        by_id.setdefault(named.id, []).append(named)
    if len(by_id) > 1:
        some = [f"{_whats(named)} {id}" for id, named in sorted(by_id.items())]
        more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
        raise UsageError(f"{wanted.text} may be one of several: {', '.join(some[:_SHOWN])}{more}; say which.")
    return next(iter(by_id.values()), [])


def _whats(named: Iterable[Named]) -> str:
    return " and ".join(dict.fromkeys(one.what for one in named))


async def named_live(urls: Mapping[str, str], ids: IdsOf, wanted: Wanted) -> list[Named]:
    """Asks the databases at these URLs, by service. Raises psycopg.Error."""
    async with AsyncExitStack() as stack:
        conns = {
            service: await stack.enter_async_context(await open_session(url)) for service, url in urls.items()
        }
        return await named_in_databases(conns, ids, wanted)


async def named_in_databases(conns: Mapping[str, Connection], ids: IdsOf, wanted: Wanted) -> list[Named]:
    """Asks each service's database by its indexes; where that finds nothing, once more for a trace."""
    found: list[Named] = []
    for service, conn in conns.items():
        found += await _asked(conn, _OF_KEY, wanted.values)
        if wanted.first:
            found += await _asked(conn, _IN_JOURNAL, wanted.values)
        for id in ids[service]:
            if id.compared:
                values = {"name": id.compared(wanted.text)}
            elif wanted.first:
                values = wanted.values
            else:
                continue
            cursor = await conn.execute(id.query.encode(), values)
            found += [Named(id.what, str(one), key, flow) for one, key, flow in await cursor.fetchall()]
    if not found and wanted.trace:
        found = [one for conn in conns.values() for one in await _asked(conn, _OF_TRACE, wanted.values)]
    return found


async def _asked(conn: Connection, query: str, values: Mapping[str, Any]) -> list[Named]:
    return [Named(*row) for row in await (await conn.execute(query.encode(), values)).fetchall()]


def named_in(items: Iterable[Item], ids: IdsOf, wanted: Wanted) -> Iterator[Named]:
    """Yields what has the id in a stream of items."""
    names = _Names(ids, wanted)
    for item in items:
        match item:
            case JournalEntry():
                yield from _in_entry(item, wanted)
            case TopicRecord(record=record) | OutboxRecord(record=record):
                if (names.may_be_in(record) or _may_have(record, wanted)) and (event := _event(record)):
                    yield from _in_event(event, wanted)
                    yield from names.of(event)


def _in_entry(entry: JournalEntry, wanted: Wanted) -> Iterator[Named]:
    if wanted.is_of(entry.key) or entry.key == wanted.text:
        yield Named("user", entry.key, entry.key, None)
    if entry.correlation_id is None:
        return
    if wanted.is_of(entry.id):
        yield Named(entry.type, str(entry.id), entry.key, entry.correlation_id)
    if wanted.is_of(entry.correlation_id):
        yield Named("flow", str(entry.correlation_id), entry.key, entry.correlation_id)
    if wanted.trace and entry.command and entry.command["cause"]["trace_id"] == wanted.trace:
        yield Named("trace", str(wanted.first), entry.key, entry.correlation_id)


def _in_event(event: Event[Fact], wanted: Wanted) -> Iterator[Named]:
    if wanted.is_of(event.key):
        yield Named("user", event.key, event.key, None)
    if wanted.is_of(event.id):
        yield Named(event.type, str(event.id), event.key, event.correlation_id)
    for name, value in event.data:
        if isinstance(value, UUID) and str(value) != event.key and wanted.is_of(value):
            yield Named(name.removesuffix("_id"), str(value), event.key, event.correlation_id)


class _Names:
    """Finds who has the name that is wanted, in the facts that say names."""

    def __init__(self, ids: IdsOf, wanted: Wanted) -> None:
        self._wanted: dict[str, list[tuple[Id, str, str]]] = {}
        for id in chain.from_iterable(ids.values()):
            if id.compared and id.said_in:
                fact, field = id.said_in
                named = id, field, id.compared(wanted.text)
                self._wanted.setdefault(fact.__name__, []).append(named)

    def may_be_in(self, record: Record) -> bool:
        return (type_in(record) or b"").decode(errors="replace") in self._wanted

    def of(self, event: Event[Fact]) -> Iterator[Named]:
        for id, field, name in self._wanted.get(event.type, ()):
            if id.compared and id.compared(getattr(event.data, field)) == name:
                yield Named(id.what, event.key, event.key, None)


def _may_have(record: Record, wanted: Wanted) -> bool:
    """Tells, without reading the event, whether it may have the id."""
    if not wanted.beginning:
        return False
    begins = wanted.beginning.encode()
    named = next((value for name, value in record.headers if name == "ce_id"), None)
    return begins in (record.value or b"") or (named or b"").startswith(begins)


def _event(record: Record) -> Event[Fact] | None:
    try:
        return decode(record)
    except (UnknownType, Undecodable):
        return None
