"""Parked events of one key, taken again in order, or given up. A person asks for this: see `choreo dlq`."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import Connection, Failure, failure_of, raw_connection
from choreo.chassis.database.round_trip import RoundTrip
from choreo.chassis.transaction import journal, keys, parked
from choreo.chassis.transaction.inputs import FactTypes
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.store import PostgresStore, PostgresTransaction
from choreo.chassis.transaction.transaction import Transaction
from choreo.chassis.waiting import commit_notifications
from choreo.message.codec import Undecodable

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a parked event."""

    parked: Parked
    outcome: Literal["applied", "duplicate", "skipped", "parked"]
    decided: tuple[str, ...] = ()
    """Types of the facts that follow from it."""


async def retry(
    transaction: Transaction[S], store: PostgresStore[S], consumes: FactTypes, key: str
) -> list[Retried]:
    """Takes the key's parked events in order, up to the first that fails again. One transaction.

    Holds the key's lock, so whatever arrives meanwhile comes after them.
    """
    results: list[Retried] = []
    async with store.transaction() as opened:
        conn = opened.conn
        sequences = opened.lock_keys([key])
        await opened.send()
        sequence = sequences()[key]
        for row in await parked.of_key(conn, key):
            try:
                async with conn.transaction():  # a savepoint
                    result, sequence = await _take(transaction, opened, consumes, row, sequence)
            except Exception as error:
                if failure_of(error) is not Failure.INPUT:
                    raise
                result = await _still_parked(conn, row, error, sequence)
            results.append(result)
            if result.outcome == "parked":
                break
        await commit_notifications.notify(conn, key)
        await conn.commit()
    return results


async def drop(engine: AsyncEngine, row: Parked) -> None:
    """Gives one parked event up for good. What queues behind it stays parked until it is retried."""
    async with raw_connection(engine) as conn:
        async with RoundTrip(conn) as trip:
            keys.lock(trip, [row.key])
        await journal.drop_parked(conn, row.id)
        await parked.remove(conn, row.id)
        for freed in (await parked.of_key(conn, row.key))[:1]:
            await parked.say_why(conn, freed.id, "queued", "what it queued behind was dropped: retry it")
        await conn.commit()


async def _take(
    transaction: Transaction[S],
    store: PostgresTransaction[S],
    consumes: FactTypes,
    row: Parked,
    sequence: int,
) -> tuple[Retried, int]:
    """Raises what keeps it from being handled."""
    event, conn = row.event(consumes), store.conn
    await parked.remove(conn, row.id)
    await journal.forget_parked(conn, row.id)
    if event is None:
        return Retried(row, "skipped"), sequence
    # As long as it could not be read it had no id of its own, and may have come a second time since.
    await journal.forget_parked(conn, event.id)
    seen = store.seen([event.id])
    await store.send()
    if seen():
        return Retried(row, "duplicate"), sequence
    heard = row.heard(event)
    work = await transaction.load_key(store, heard, sequence)
    decided = transaction.apply(work, heard, event)
    await transaction.write(store, work)
    await store.send()
    return Retried(row, "applied", tuple(event.type for event in decided)), work.sequences[row.key]


async def _still_parked(conn: Connection, row: Parked, error: Exception, sequence: int) -> Retried:
    await journal.move_parked(conn, row.id, sequence, clock.now())
    if isinstance(error, Undecodable):
        await parked.say_why(conn, row.id, "undecodable", str(error))
    else:
        await parked.say_why(
            conn, row.id, "database" if isinstance(error, psycopg.Error) else "handler", error
        )
    (now,) = [again for again in await parked.of_key(conn, row.key) if again.id == row.id]
    return Retried(now, "parked")
