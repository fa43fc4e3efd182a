"""What a retry of a key's parked events would do: in memory, with today's code, on its rows as they are.

Nothing is locked or written, and a handler that acts is refused. So what only the database would refuse is
found by the retry itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import RoundTrip
from choreo.chassis.service import Service
from choreo.chassis.source_lines import raised_at
from choreo.chassis.transaction import journal, keys, parked
from choreo.chassis.transaction.parked import Parked
from choreo.message.codec import Undecodable
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.engine.in_memory_service import Taken
from choreo.replay.engine.sandbox import run_sandboxed
from choreo.replay.engine.walk import Write, writes


@dataclass(frozen=True, slots=True)
class Tried:
    """What would become of a parked event."""

    parked: Parked
    """With the reason for which it would stay parked, if it would."""
    outcome: Literal["applied", "duplicate", "skipped", "parked"]
    events: tuple[Event[Fact], ...] = ()
    """What would be decided."""
    writes: Sequence[Write] = ()

    @property
    def decided(self) -> tuple[str, ...]:
        return tuple(event.type for event in self.events)


async def dry_run(conn: Connection, service: Service[Any], key: str, now: datetime) -> list[Tried]:
    """Tries a key's parked events in order, up to the first that would fail again. Raises `SideEffect`.

    `conn` is in a transaction that sees one moment.
    """
    rows = await parked.of_key(conn, key)
    read = [_read(row, service) for row in rows]
    events = [event for event in read if isinstance(event, Event)]
    sequence = await keys.look(conn, key)
    async with RoundTrip(conn) as trip:
        before = journal.seen(trip, [event.id for event in events])
        # As the kernel does for a batch: with all rows that any of them concerns.
        states = service.store.load(trip, {key: [event.data for event in events]})
    seen = {id for id, entry in before().items() if entry.outcome != "parked"}
    state = states()[key]
    found: list[Tried] = []
    for row, event in zip(rows, read, strict=True):
        if event is None:
            found.append(Tried(row, "skipped"))
        elif isinstance(event, Event) and event.id in seen:
            found.append(Tried(row, "duplicate"))
        else:
            taken = Taken(service, event, state, now, sequence)
            outcome = run_sandboxed(taken)
            if isinstance(outcome, Exception):
                found.append(Tried(_failed(row, outcome), "parked"))
                break
            changed = [write for write in writes(taken) if write.row != write.old]
            found.append(Tried(row, "applied", outcome.events, changed))
            state, sequence = outcome.state, outcome.sequence
            seen.add(taken.trail[0][0].id)
    return found


def _read(row: Parked, service: Service[Any]) -> Event[Fact] | Undecodable | None:
    try:
        return row.event(service.consumes)
    except Undecodable as error:
        return error


def _failed(row: Parked, error: Exception) -> Parked:
    if isinstance(error, Undecodable):
        return replace(row, reason="undecodable", error=str(error), place=None)
    told = f"{type(error).__name__}: {error}"
    return replace(row, reason="handler", error=told, place=raised_at(error))
