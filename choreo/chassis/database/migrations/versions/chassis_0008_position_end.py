"""Which leader appended what lies before a position, be it a record or a transaction's marker behind it.

It names its offset: whoever does not know of it moves the position past it, and then it is not known.
"""

from alembic import op

revision = "chassis_0008"
down_revision = "chassis_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE positions
            ADD COLUMN end_offset bigint NOT NULL DEFAULT -1,
            ADD COLUMN end_epoch integer NOT NULL DEFAULT -1
    """)
