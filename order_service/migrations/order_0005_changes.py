"""An order knows its history. Of one from before there is the beginning, and what it came to."""

from alembic import op

revision = "order_0005"
down_revision = "order_0004"
branch_labels = None
depends_on = None

_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""


def upgrade() -> None:
    op.execute(f"""
        ALTER TABLE orders ADD COLUMN changes jsonb;
        UPDATE orders SET changes = jsonb_build_array(jsonb_build_object(
            'step', step, 'status', 'created', 'reason', NULL, 'at', {_TIME.format("created_at")}
        )) || CASE status WHEN 'created' THEN '[]' ELSE jsonb_build_array(jsonb_build_object(
            'step', step + 1, 'status', status, 'reason', reason, 'at', {_TIME.format("updated_at")}
        )) END;
        ALTER TABLE orders ALTER COLUMN changes SET NOT NULL;
    """)
