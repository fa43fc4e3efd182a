"""Orders nobody has decided about yet are asked for all the time, and are few."""

from alembic import op

revision = "order_0002"
down_revision = "order_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX orders_undecided ON orders (created_at) WHERE status = 'created'")
