"""Which order was answered last tells whether orders are decided at all."""

from alembic import op

revision = "order_0004"
down_revision = "order_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX orders_answered ON orders (decide_by) WHERE payment <> 'undecided'")
