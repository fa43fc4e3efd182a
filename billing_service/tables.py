"""Billing's own database. Amounts and balances are minor units."""

from sqlalchemy import BigInteger, Column, Index, MetaData, Table, Text, Uuid, text

from choreo.chassis.database.tables import MinorUnits, timestamp

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("currency", Text, nullable=False),
    Column("balance", MinorUnits, nullable=False),
    Column("created_at", timestamp(), nullable=False),
)

payments = Table(
    "payments",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("amount", MinorUnits, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("trace_id", Text, nullable=False),
    Index("payments_waiting", "user_id", postgresql_where=text("outcome = 'waiting'")),
)

ledger = Table(
    "ledger",
    metadata,
    Column("entry_id", Uuid, primary_key=True),
    Column("side", Text, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", MinorUnits, nullable=False),
    Column("balance", MinorUnits, nullable=False),
    Column("order_id", Uuid),
    Column("at", timestamp(), nullable=False),
    Column("step", BigInteger, nullable=False),
    Index("ledger_entries", "user_id", "step", postgresql_where=text("side = 'customer'")),
    comment="append-only: two legs per entry, which sum to zero",
)
