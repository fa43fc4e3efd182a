"""The notification service's own database."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, Text, Uuid, text

from choreo.chassis.database.tables import NOT_REPLAYED, timestamp

metadata = MetaData()

recipients = Table(
    "recipients",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("login", Text, nullable=False),
    Column("email", Text, nullable=False),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", timestamp(), nullable=False),
    Column("sent_at", timestamp()),
    Column("step", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("trace_id", Text, nullable=False),
    Index("notifications_of_user", "user_id", "step"),
    Index("notifications_pending", "created_at", postgresql_where=text("status = 'pending'")),
)

leases = Table(
    "leases",
    metadata,
    Column("notification_id", Uuid, primary_key=True),
    Column("leased_until", timestamp(), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("delivered", Boolean),
    Column("owner", Uuid),
    comment="who is mailing what just now; no fact, so replay does not make it",
    info={NOT_REPLAYED: True},
)
