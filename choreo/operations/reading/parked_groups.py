"""Parked events as a person looks at them: what failed in the same way at the same place is one group."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from choreo.chassis.transaction.parked import Parked

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


def grouped(parked: Mapping[str, Iterable[Parked]]) -> list[Group]:
    """Oldest first. `parked` is by service, each in the order of position."""
    groups: dict[str, list[Queue]] = {}
    for service, rows in parked.items():
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
