"""The tables every service has besides its own. They belong to the chassis; services do not name them.

`migrations/` makes them; a test holds the two together.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB


def timestamp() -> DateTime:
    return DateTime(timezone=True)


class MinorUnits(BigInteger):
    """Money in minor units (cents): people are shown 400.00 for 40000."""


NOT_REPLAYED = "not_replayed"
"""Set in `Table.info` of secrets and leases: they are no facts, and replay does not make them."""

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    comment="one row per key; its lock serialises all that happens to the key in this service",
)

positions = Table(
    "positions",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("cluster_id", Text, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("last_digest", LargeBinary, nullable=False),
    Column("leader_epoch", Integer, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("end_epoch", Integer, nullable=False),
    comment="the truth about consumption; Kafka's committed offsets are advisory",
)

journal = Table(
    "journal",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("key", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("correlation_id", Uuid),
    Column("outcome", Text, nullable=False),
    Column("command", JSONB),
    Column("refusal", JSONB),
    Column("fingerprint", LargeBinary),
    Column("answer_status", SmallInteger),
    Column("answer_body", LargeBinary),
    Column("answer_headers", JSONB),
    Column("decided_at", timestamp(), nullable=False),
    Column("received_at", timestamp()),
    Column("code_version", Text, nullable=False),
    Index("journal_key", "key", "position"),
    Index("journal_correlation", "correlation_id"),
    Index("journal_position", "position"),
    comment="what this service was asked and heard; per key in the order of position",
)

outbox = Table(
    "outbox",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("decided_at", timestamp(), nullable=False),
    Index("outbox_partition", "partition", "position"),
    comment="facts that are decided and not yet acknowledged by Kafka",
)

relay_leases = Table(
    "relay_leases",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("owner", Uuid),
    Column("leased_until", timestamp(), nullable=False),
    comment="which process publishes which partition of the outbox, until when by this database's clock",
)

parked = Table(
    "parked",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("key", Text, nullable=False),
    Column("type", Text),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("record_key", LargeBinary),
    Column("record_value", LargeBinary),
    Column("record_headers", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("place", Text),
    Column("parked_at", timestamp(), nullable=False),
    Index("parked_key", "key", "position"),
    comment="events that need a person, and the later events of their keys; in the order of position",
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("public_jwk", JSONB, nullable=False),
    Column("not_after", timestamp(), nullable=False),
)

sessions_ended = Table(
    "sessions_ended",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("not_before", timestamp(), nullable=False),
    Index("sessions_ended_not_before", "not_before"),
)
