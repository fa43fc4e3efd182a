"""Parked events as a person looks at them: what failed in the same way at the same place is one group."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from choreo.chassis.transaction import parked
from choreo.chassis.transaction.parked import Parked
from choreo.message.codec import Undecodable, UnknownType, decode
from choreo.replay.sources.telling import telling
from choreo.replay.trace.find import sessions

_VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d+")


@dataclass(frozen=True)
class Queue:
    """All that is parked of one key in one service, in order: the first needs a person, the rest waits."""

    service: str
    events: Sequence[Parked]

    @property
    def key(self) -> str:
        return self.events[0].key

    @property
    def head(self) -> Parked:
        return self.events[0]

    @property
    def group_id(self) -> str:
        """The same for what failed alike: numbers and ids in the error do not count."""
        head = self.head
        alike = (self.service, head.reason, head.type, head.place, _VARYING.sub("…", head.error))
        return hashlib.sha256(repr(alike).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Group:
    id: str
    queues: Sequence[Queue]
    """Oldest first."""

    @property
    def service(self) -> str:
        return self.queues[0].service

    @property
    def head(self) -> Parked:
        """The oldest of those that failed."""
        return self.queues[0].head

    @property
    def behind(self) -> int:
        """How many events queue behind those that failed."""
        return sum(len(queue.events) - 1 for queue in self.queues)

    @property
    def since(self) -> datetime:
        return self.head.parked_at


def grouped(found_in: Mapping[str, Iterable[Parked]]) -> list[Group]:
    """Oldest first. `found_in` is by service, each in the order of position."""
    groups: dict[str, list[Queue]] = {}
    for service, rows in found_in.items():
        by_key: dict[str, list[Parked]] = {}
        for row in rows:
            by_key.setdefault(row.key, []).append(row)
        for events in by_key.values():
            queue = Queue(service, events)
            groups.setdefault(queue.group_id, []).append(queue)
    found = [
        Group(id, sorted(queues, key=lambda queue: queue.head.parked_at)) for id, queues in groups.items()
    ]
    return sorted(found, key=lambda group: group.since)


async def parked_in(urls: Mapping[str, str]) -> list[Group]:
    """Reads what is parked in these databases, by service; cannot write. Raises psycopg.Error."""
    async with sessions(urls) as conns:
        return grouped({name: await parked.all(conn) for name, conn in conns.items()})


def group_as_dict(group: Group) -> dict[str, Any]:
    return {
        "group": group.id,
        "service": group.service,
        "reason": group.head.reason,
        "event": group.head.type,
        "error": group.head.error,
        "place": group.head.place,
        "keys": [queue.key for queue in group.queues],
        "behind": group.behind,
        "since": group.since.isoformat(),
    }


def parked_as_dict(queue: Queue, row: Parked) -> dict[str, Any]:
    return {
        "service": queue.service,
        "id": str(row.id),
        "group": queue.group_id,
        "event": row.type,
        "tells": _tells(row),
        "key": row.key,
        "at": f"{row.topic}[{row.partition}]@{row.offset}",
        "parked_at": row.parked_at.isoformat(),
        "reason": row.reason,
        "error": row.error,
        "place": row.place,
        "replay": _replay(queue),
        "headers": orjson.loads(row.record_headers),
        "value": None if row.record_value is None else row.record_value.decode(errors="backslashreplace"),
    }


def _tells(row: Parked) -> str | None:
    """Amounts, reasons: what the event's fact declares; None where it cannot be read."""
    try:
        event = decode(row.record)
    except (UnknownType, Undecodable):
        return None
    return telling(event.type, dict(event.data))


def _replay(queue: Queue) -> str:
    """Shows again how the first of them fails: for that one the others wait."""
    stop = f'id == "{queue.head.id}"'
    return shlex.join(
        ["choreo", "replay", "live", "--service", queue.service, "--key", queue.key, "--break", stop]
    )
