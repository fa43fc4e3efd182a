"""Who holds what a transaction wants, asked without waiting for it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from choreo.chassis.database.connection import Connection
from choreo.chassis.transaction.positions import TopicPartition

_KEYS = """/* locks.keys: which of these rows somebody else has locked, and who */
WITH free AS (SELECT key FROM keys WHERE key = ANY(%b::text[]) FOR UPDATE SKIP LOCKED)
SELECT key, (SELECT min(pid) FROM pg_locks WHERE transactionid = held.xmax AND granted)
FROM keys AS held WHERE key = ANY(%b::text[]) AND key NOT IN (SELECT key FROM free)"""

_POSITIONS = """/* locks.positions: likewise */
WITH wanted AS (SELECT * FROM unnest(%b::text[], %b::int[]) AS wanted (topic, partition)),
free AS (SELECT topic, partition FROM positions NATURAL JOIN wanted FOR UPDATE OF positions SKIP LOCKED)
SELECT topic, partition, (SELECT min(pid) FROM pg_locks WHERE transactionid = held.xmax AND granted)
FROM positions AS held NATURAL JOIN wanted
WHERE (topic, partition) NOT IN (SELECT topic, partition FROM free)"""

_TABLES = """/* locks.tables: tables that nobody else may write */
SELECT relation::regclass::text, min(pid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid() AND relkind = 'r'
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
GROUP BY relation"""


@dataclass(frozen=True)
class Locked:
    """What somebody else holds, each with a sentence that names the holder where it can be told."""

    rows: dict[str | TopicPartition, str] = field(default_factory=dict)
    """By key, or by topic and partition."""
    tables: dict[str, str] = field(default_factory=dict)


async def locked(conn: Connection, keys: Collection[str], partitions: Collection[TopicPartition]) -> Locked:
    """Takes the locks that are free, for as long as the caller's transaction: roll it back."""
    rows: dict[str | TopicPartition, str] = {}
    if keys:
        wanted = list(keys)
        for key, pid in await (await conn.execute(_KEYS, [wanted, wanted])).fetchall():
            rows[key] = f"key {key[:80]} is locked by {_session(pid)}"
    if partitions:
        topics, numbers = zip(*partitions, strict=True)
        found = await conn.execute(_POSITIONS, [list(topics), list(numbers)])
        for topic, number, pid in await found.fetchall():
            rows[topic, number] = f"the position of {topic}[{number}] is locked by {_session(pid)}"
    tables = await (await conn.execute(_TABLES)).fetchall()
    return Locked(rows, {name: f"table {name} is locked by {_session(pid)}" for name, pid in tables})


def _session(pid: int | None) -> str:
    return f"the session with pid {pid}" if pid else "another session"
