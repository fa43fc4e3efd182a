"""An order knows what its expiry would follow from, and the undecided are found by when they are due."""

from alembic import op
from sqlalchemy import text

from choreo.message.envelope import event_id

revision = "order_0003"
down_revision = "order_0002"
branch_labels = None
depends_on = "chassis_0001"

_PLACED = text("""/* orders.placed: which command placed each order */
SELECT (command->>'order_id')::uuid AS order_id, (command->'cause'->>'id')::uuid AS cause_id,
    correlation_id, command->'cause'->>'trace_id' AS trace_id
FROM journal WHERE type = 'PlaceOrder' AND outcome = 'applied'""")

_FILL = text("""
UPDATE orders SET event_id = :event_id, correlation_id = :correlation_id, trace_id = :trace_id
WHERE id = :order_id""")


def upgrade() -> None:
    op.execute("""
        ALTER TABLE orders ADD COLUMN event_id uuid, ADD COLUMN correlation_id uuid, ADD COLUMN trace_id text;
    """)
    connection = op.get_bind()
    filled = [
        {
            "order_id": placed.order_id,
            "event_id": event_id("order", placed.cause_id, "OrderCreated"),
            "correlation_id": placed.correlation_id,
            "trace_id": placed.trace_id,
        }
        for placed in connection.execute(_PLACED)
    ]
    if filled:
        connection.execute(_FILL, filled)
    op.execute("""
        ALTER TABLE orders ALTER COLUMN event_id SET NOT NULL, ALTER COLUMN correlation_id SET NOT NULL,
            ALTER COLUMN trace_id SET NOT NULL;
        DROP INDEX orders_undecided;
        CREATE INDEX orders_undecided ON orders (decide_by) WHERE status = 'created';
    """)
