"""What a service was asked and heard, in order; and by the same rows, what it has seen before.

Rows are never removed: event ids and first answers lean on them. One exception: a parked event is written
anew when it is retried or dropped, so that per key the order of positions stays the order of handling. One
that fails again moves as well: where it lies, a replay meets the state in which it failed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from choreo.chassis.code_version import code_version
from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.chassis.database.rows import insert
from choreo.chassis.database.tables import journal
from choreo.chassis.transaction.inputs import Asked, Heard, Input, Reply
from choreo.message.decider import Command, Refusal

CODE_VERSION = code_version()

_SEEN = Statement("""/* journal.seen: which of these inputs were handled before, and how */
SELECT id, outcome, fingerprint, answer_status, answer_body, answer_headers
FROM journal WHERE id = ANY($1::uuid[])""")

_FLOW_APPLIED = """/* journal.flow_applied: of one key only, so that nobody learns of the flows of others */
SELECT EXISTS (SELECT FROM journal WHERE correlation_id = %s AND key = %s AND outcome = 'applied')"""

_FORGET_PARKED = """/* journal.forget_parked: this event is about to be written anew */
DELETE FROM journal WHERE id = %s AND outcome = 'parked'"""

_MOVE_PARKED = """/* journal.move_parked: it was tried again here, and failed again */
UPDATE journal SET step = %s, decided_at = %s, position = DEFAULT WHERE id = %s AND outcome = 'parked'"""

_DROP_PARKED = """/* journal.drop_parked: somebody gave this event up */
UPDATE journal SET outcome = 'dropped', position = DEFAULT WHERE id = %s AND outcome = 'parked'"""


@dataclass(frozen=True, slots=True)
class SeenInput:
    id: UUID
    outcome: str
    fingerprint: bytes | None
    answer_status: int | None
    answer_body: bytes | None
    answer_headers: dict[str, str] | None

    @property
    def reply(self) -> Reply | None:
        if self.answer_status is None or self.answer_body is None:
            return None
        return Reply(self.answer_status, self.answer_body, self.answer_headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """A row of the journal. `outcome` is applied, refused, parked or dropped."""

    id: UUID
    key: str
    step: int
    kind: str
    type: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    correlation_id: UUID | None
    outcome: str
    command: Command | None = None
    refusal: dict[str, Any] | None = None
    fingerprint: bytes | None = None
    answer_status: int | None = None
    answer_body: bytes | None = None
    answer_headers: dict[str, str] | None = None
    received_at: datetime
    decided_at: datetime
    code_version: str = CODE_VERSION


def row_of(
    input: Input,
    *,
    step: int,
    now: datetime,
    outcome: str,
    refusal: Refusal | None = None,
    reply: Reply | None = None,
) -> JournalRow:
    """`step` is the key's number at the input: a heard fact's own, for a command the last before it."""
    told = {"type": type(refusal).__name__, **refusal.numbers} if refusal else None
    match input:
        case Heard():
            return JournalRow(
                id=input.id,
                key=input.key,
                step=step,
                kind="fact",
                type=input.event.type if input.event else "",
                topic=input.topic,
                partition=input.partition,
                offset=input.offset,
                correlation_id=input.correlation_id,
                outcome=outcome,
                refusal=told,
                received_at=input.received_at,
                decided_at=now,
            )
        case Asked():
            return JournalRow(
                id=input.id,
                key=input.key,
                step=step,
                kind="command",
                type=type(input.command).__name__,
                correlation_id=input.correlation_id,
                outcome=outcome,
                command=input.command,
                refusal=told,
                fingerprint=input.fingerprint,
                answer_status=reply.status if reply else None,
                answer_body=reply.body if reply else None,
                answer_headers=dict(reply.headers) if reply else None,
                received_at=input.received_at,
                decided_at=now,
            )


def seen(trip: RoundTrip, ids: Collection[UUID]) -> Later[dict[UUID, SeenInput]]:
    if not ids:
        return dict
    rows = trip.add(_SEEN, list(ids), row=SeenInput)
    return lambda: {row.id: row for row in rows}


async def flow_applied(conn: Connection, key: str, flow: UUID) -> bool:
    """Whether any input of this flow was applied to this key: heard, or asked for here."""
    row = await (await conn.execute(_FLOW_APPLIED, [flow, key])).fetchone()
    return bool(row and row[0])


def add(trip: RoundTrip, entries: Sequence[JournalRow]) -> None:
    """Inside the kernel's transaction."""
    insert(trip, journal, entries)


async def forget_parked(conn: Connection, id: UUID) -> None:
    """Runs inside the transaction that writes the event's row anew."""
    await conn.execute(_FORGET_PARKED, [id])


async def move_parked(conn: Connection, id: UUID, step: int, now: datetime) -> None:
    """Runs inside the transaction that tried the event again. `step` is the key's number so far."""
    await conn.execute(_MOVE_PARKED, [step, now, id])


async def drop_parked(conn: Connection, id: UUID) -> None:
    """Runs inside the transaction that gives the event up."""
    await conn.execute(_DROP_PARKED, [id])
