"""What became of a mail is kept where it could not be recorded yet: it is not mailed again for that."""

from alembic import op

revision = "notification_0002"
down_revision = "notification_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE leases ADD COLUMN delivered boolean")
