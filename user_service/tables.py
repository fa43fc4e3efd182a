"""The user service's own database."""

from sqlalchemy import BigInteger, Column, Identity, Index, LargeBinary, MetaData, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from choreo.chassis.database.tables import NOT_REPLAYED, timestamp

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("login", Text, nullable=False),
    Column("login_key", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False, unique=True),
    Column("created_at", timestamp(), nullable=False),
    Column("step", BigInteger, nullable=False),
)

credentials = Table(
    "credentials",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("password_hash", Text, nullable=False),
    comment="secret: made beside the fact, in its transaction",
    info={NOT_REPLAYED: True},
)

private_keys = Table(
    "private_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("private_jwk", JSONB, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("published_at", timestamp(), nullable=False),
    Column("not_after", timestamp(), nullable=False),
    comment="secret: what tokens are signed with, once the public half is known to everybody",
    info={NOT_REPLAYED: True},
)

failed_logins = Table(
    "failed_logins",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("pair", LargeBinary, nullable=False),
    Column("address", LargeBinary, nullable=False),
    Column("at", timestamp(), nullable=False),
    Index("failed_logins_pair", "pair", "at"),
    Index("failed_logins_address", "address", "at"),
    comment="secret: who may not try again yet; digests of login and address, and of the address",
    info={NOT_REPLAYED: True},
)

known_pairs = Table(
    "known_pairs",
    metadata,
    Column("pair", LargeBinary, primary_key=True),
    Column("at", timestamp(), nullable=False),
    Index("known_pairs_at", "at"),
    comment="secret: digests of a login and an address it came from, and when it did last",
    info={NOT_REPLAYED: True},
)
