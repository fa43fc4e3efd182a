"""Whose a lease is, so that the next process of its name needs not wait for it to be over."""

from alembic import op

revision = "notification_0004"
down_revision = "notification_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE leases ADD COLUMN owner uuid")
