"""The pinboard service's own database."""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, Uuid

from choreo.chassis.database.tables import timestamp

metadata = MetaData()

boards = Table(
    "boards",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("notes", Integer, nullable=False),
    Column("most_notes", Integer, nullable=False),
    Column("opened_at", timestamp(), nullable=False),
)

notes = Table(
    "notes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", timestamp(), nullable=False),
    Column("step", BigInteger, nullable=False),
    Index("notes_of_user", "user_id", "step"),
)
