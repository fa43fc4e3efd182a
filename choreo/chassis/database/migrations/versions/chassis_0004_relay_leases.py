"""Who publishes which partition of the outbox. A row is changed by who may write, not by who may look."""

from alembic import op

revision = "chassis_0004"
down_revision = "chassis_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE relay_leases (
            partition integer PRIMARY KEY,
            owner uuid,
            leased_until timestamptz NOT NULL
        ) WITH (fillfactor = 10);
        COMMENT ON TABLE relay_leases IS
            'which process publishes which partition of the outbox, until when by this database''s clock';
    """)
