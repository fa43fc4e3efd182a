"""The oldest mails that are pending are found without a look at all of them."""

from alembic import op

revision = "notification_0003"
down_revision = "notification_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        DROP INDEX notifications_pending;
        CREATE INDEX notifications_pending ON notifications (created_at) WHERE status = 'pending';
    """)
