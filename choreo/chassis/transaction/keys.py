"""One row per key. Holding its lock means: nothing else happens to this key in this service."""

from collections.abc import Mapping, Sequence

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import Later, RoundTrip, Statement

_MAKE = Statement(
    """/* keys.make: a key seen for the first time starts at 0 */
INSERT INTO keys (key, sequence) SELECT key, 0 FROM unnest($1::text[]) AS key ORDER BY key
ON CONFLICT DO NOTHING""",
    of_one="""/* keys.make: a key seen for the first time starts at 0 */
INSERT INTO keys (key, sequence) VALUES ($1, 0) ON CONFLICT DO NOTHING""",
)

_LOCK = Statement("""/* keys.lock: sorted, so that no two transactions wait for each other */
SELECT key, sequence FROM keys WHERE key = ANY($1::text[]) ORDER BY key FOR UPDATE""")

_LOOK = """/* keys.look */ SELECT sequence FROM keys WHERE key = %s"""

_ADVANCE = Statement(
    """/* keys.advance */
UPDATE keys SET sequence = new.sequence FROM unnest($1::text[], $2::bigint[]) AS new (key, sequence)
WHERE keys.key = new.key""",
    of_one="/* keys.advance */ UPDATE keys SET sequence = $2 WHERE key = $1",
)


def lock(trip: RoundTrip, keys: Sequence[str]) -> Later[dict[str, int]]:
    """The sequence of every key. What is loaded afterwards, by a later statement, is up to date."""
    if not keys:
        return dict
    trip.add(_MAKE, keys)
    rows = trip.add(_LOCK, keys)
    return lambda: dict(rows)


async def look(conn: Connection, key: str) -> int:
    """Its sequence, without a lock: for who writes nothing."""
    row = await (await conn.execute(_LOOK, [key])).fetchone()
    return row[0] if row else 0


def advance(trip: RoundTrip, sequences: Mapping[str, int]) -> None:
    """Inside the transaction that locked them."""
    if sequences:
        trip.add(_ADVANCE, list(sequences), list(sequences.values()))
