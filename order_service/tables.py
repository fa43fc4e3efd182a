"""The order service's own database. Prices are minor units."""

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from choreo.chassis.database.tables import MinorUnits, timestamp

metadata = MetaData()

orders = Table(
    "orders",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("price", MinorUnits, nullable=False),
    Column("description", Text),
    Column("created_at", timestamp(), nullable=False),
    Column("updated_at", timestamp(), nullable=False),
    Column("decide_by", timestamp(), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("payment", Text, nullable=False),
    Column("rejection_reason", Text),
    Column("cancel_reason", Text),
    Column("refunded", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("changes", JSONB, nullable=False),
    Index("orders_of_user", "user_id", "step"),
    Index("orders_answered", "decide_by", postgresql_where=text("payment <> 'undecided'")),
    Index("orders_undecided", "decide_by", postgresql_where=text("status = 'created'")),
)
