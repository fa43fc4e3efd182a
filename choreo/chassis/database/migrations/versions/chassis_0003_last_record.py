"""Which record was the last of what was read: a log that was cut and has grown again has another there.

Positions of before do not know it, and take it from the next record.
"""

from alembic import op

revision = "chassis_0003"
down_revision = "chassis_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE positions
            ADD COLUMN last_offset bigint NOT NULL DEFAULT -1,
            ADD COLUMN last_digest bytea NOT NULL DEFAULT '',
            ADD COLUMN leader_epoch integer NOT NULL DEFAULT -1
    """)
