"""How far each partition has been read: the truth about consumption, moved in the kernel's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.message.codec import Record

TopicPartition = tuple[str, int]
"""Topic and partition."""

_LOCK = Statement("""/* positions.lock: one transaction at a time moves a partition */
SELECT topic, partition, next_offset, CASE next_offset
    WHEN end_offset THEN end_epoch WHEN last_offset + 1 THEN leader_epoch ELSE -1 END
FROM positions WHERE (topic, partition) IN (SELECT * FROM unnest($1::text[], $2::integer[]))
ORDER BY topic, partition FOR UPDATE""")

_ADVANCE = Statement(
    """/* positions.advance */
UPDATE positions SET next_offset = new.next_offset,
    last_offset = CASE WHEN new.last_offset < 0 THEN positions.last_offset ELSE new.last_offset END,
    last_digest = CASE WHEN new.last_offset < 0 THEN positions.last_digest ELSE new.last_digest END,
    leader_epoch = CASE WHEN new.last_offset < 0 THEN positions.leader_epoch ELSE new.leader_epoch END,
    end_offset = new.next_offset, end_epoch = new.end_epoch
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bytea[], $6::integer[], $7::integer[])
    AS new (topic, partition, next_offset, last_offset, last_digest, leader_epoch, end_epoch)
WHERE positions.topic = new.topic AND positions.partition = new.partition""",
    of_one="""/* positions.advance */
UPDATE positions SET next_offset = $3,
    last_offset = CASE WHEN $4 < 0 THEN last_offset ELSE $4 END,
    last_digest = CASE WHEN $4 < 0 THEN last_digest ELSE $5 END,
    leader_epoch = CASE WHEN $4 < 0 THEN leader_epoch ELSE $6 END,
    end_offset = $3, end_epoch = $7
WHERE topic = $1 AND partition = $2""",
)

_READ = """/* positions.read */
SELECT topic, partition, next_offset, topic_id, cluster_id, last_offset, last_digest, leader_epoch,
    end_offset, end_epoch
FROM positions
WHERE topic = ANY(%b::text[]) ORDER BY topic, partition"""

_BEGIN = """/* positions.begin: a partition this service never read is read from its start */
INSERT INTO positions (topic, partition, next_offset, topic_id, cluster_id)
SELECT topic, partition, 0, topic_id, cluster_id
FROM unnest(%b::text[], %b::int[], %b::text[], %b::text[]) AS new (topic, partition, topic_id, cluster_id)
ON CONFLICT DO NOTHING"""


class Expected(NamedTuple):
    """What is to be read next. In one log no two things have the same offset and epoch."""

    next_offset: int
    leader_epoch: int
    """Of the leader that appended what lies before that, record or marker; -1 where it is not known."""


@dataclass(frozen=True, slots=True)
class Position:
    topic: str
    partition: int
    next_offset: int
    topic_id: str
    cluster_id: str
    last_offset: int = -1
    """Of the last record that was read; -1 where it is not known. Transactions' markers may lie behind it."""
    last_digest: bytes = b""
    leader_epoch: int = -1
    """Of the leader that appended it; -1 where it is not known."""
    end_offset: int = -1
    end_epoch: int = -1
    """Of the leader that appended what lies before `end_offset`. Who moves a position by hand, or does not
    know of it, leaves these as they are.
    """

    @property
    def place(self) -> TopicPartition:
        return self.topic, self.partition

    @property
    def expected(self) -> Expected:
        known = {self.last_offset + 1: self.leader_epoch, self.end_offset: self.end_epoch}
        return Expected(self.next_offset, known.get(self.next_offset, -1))


class Reached(NamedTuple):
    """How far a transaction has read a partition."""

    next_offset: int
    last_offset: int
    """-1: it read no record, only markers."""
    leader_epoch: int
    record: Record
    end_epoch: int
    """Of the leader that appended what was read last, be it a marker."""


def lock(trip: RoundTrip, places: Sequence[TopicPartition]) -> Later[dict[TopicPartition, Expected]]:
    """Of every place, which nobody else moves until this transaction ends."""
    if not places:
        return dict
    rows = trip.add(_LOCK, *zip(*places, strict=True))
    return lambda: {(topic, partition): Expected(*read) for topic, partition, *read in rows}


def advance(trip: RoundTrip, reached: Mapping[TopicPartition, Reached]) -> None:
    """Inside the transaction that locked them."""
    if reached:
        topics, partitions = zip(*reached, strict=True)
        next_offsets, last_offsets, epochs, records, ends = zip(*reached.values(), strict=True)
        digests = [record.digest for record in records]
        trip.add(_ADVANCE, topics, partitions, next_offsets, last_offsets, digests, epochs, ends)


async def read(conn: Connection, topics: Sequence[str]) -> list[Position]:
    async with conn.cursor(row_factory=class_row(Position)) as cursor:
        await cursor.execute(_READ, [list(topics)])
        return await cursor.fetchall()


async def begin(conn: Connection, places: Sequence[Position]) -> None:
    await conn.execute(
        _BEGIN,
        [
            [place.topic for place in places],
            [place.partition for place in places],
            [place.topic_id for place in places],
            [place.cluster_id for place in places],
        ],
    )
