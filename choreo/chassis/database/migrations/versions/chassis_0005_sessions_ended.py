"""Whose tokens of before are good no more, for every service to know."""

from alembic import op

revision = "chassis_0005"
down_revision = "chassis_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE sessions_ended (
            user_id uuid PRIMARY KEY,
            not_before timestamptz NOT NULL
        );
        CREATE INDEX sessions_ended_not_before ON sessions_ended (not_before);
    """)
