"""Why a row is as it is."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from choreo.replay.engine.walk import Ahead, Write


@dataclass(frozen=True, slots=True)
class Cause:
    """The input of which a row is the result, and the fact of its step that wrote the row."""

    id: UUID
    type: str
    kind: str
    """fact (a heard event) or command."""
    key: str
    at: str
    """Where the input lies in Kafka; empty for a command."""
    fact: str
    """Its type: the input's own where that is a fact the rows know."""
    fact_id: UUID
    time: datetime
    """The fact's own."""
    flow: UUID
    handler: str
    """File and line in evolve."""


def cause_of(ahead: Ahead, write: Write) -> Cause:
    entry, event = ahead.entry, write.event
    return Cause(
        entry.id,
        entry.type,
        entry.kind,
        entry.key,
        ahead.at,
        event.type,
        event.id,
        event.time,
        event.correlation_id,
        write.case,
    )
