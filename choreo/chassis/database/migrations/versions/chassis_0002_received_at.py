"""When an input arrived, so that waiting in the service and deciding can be told apart."""

from alembic import op

revision = "chassis_0002"
down_revision = "chassis_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE journal ADD COLUMN received_at timestamptz")
