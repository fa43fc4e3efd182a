"""Orders."""

from alembic import op

revision = "order_0001"
down_revision = None
branch_labels = ("order",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE orders (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            price bigint NOT NULL CHECK (price > 0),
            description text,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            decide_by timestamptz NOT NULL,
            step bigint NOT NULL,
            payment text NOT NULL,
            rejection_reason text,
            cancel_reason text,
            refunded boolean NOT NULL,
            status text NOT NULL,
            reason text
        ) WITH (fillfactor = 80);
        CREATE INDEX orders_of_user ON orders (user_id, step);
    """)
