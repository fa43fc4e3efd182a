"""One row per key. Holding its lock means: nothing else happens to this key in this service."""

from collections.abc import Collection, Mapping

from choreo.chassis.database.connection import Connection

_MAKE = """/* keys.make: a key seen for the first time starts at 0 */
INSERT INTO keys (key, sequence) SELECT key, 0 FROM unnest(%b::text[]) AS key ORDER BY key
ON CONFLICT DO NOTHING"""

_LOCK = """/* keys.lock: sorted, so that no two transactions wait for each other */
SELECT key, sequence FROM keys WHERE key = ANY(%b::text[]) ORDER BY key FOR UPDATE"""

_LOOK = """/* keys.look */ SELECT sequence FROM keys WHERE key = %s"""

_ADVANCE = """/* keys.advance */
UPDATE keys SET sequence = new.sequence FROM unnest(%b::text[], %b::bigint[]) AS new (key, sequence)
WHERE keys.key = new.key"""


async def lock(conn: Connection, keys: Collection[str]) -> dict[str, int]:
    """The sequence of every key. What is loaded afterwards, in a later statement, is up to date."""
    if not keys:
        return {}
    await conn.execute(_MAKE, [list(keys)])
    rows = await (await conn.execute(_LOCK, [list(keys)])).fetchall()
    return dict(rows)


async def look(conn: Connection, key: str) -> int:
    """Its sequence, without a lock: for who writes nothing."""
    row = await (await conn.execute(_LOOK, [key])).fetchone()
    return row[0] if row else 0


async def advance(conn: Connection, sequences: Mapping[str, int]) -> None:
    """Runs inside the transaction that locked them."""
    if sequences:
        await conn.execute(_ADVANCE, [list(sequences), list(sequences.values())])
