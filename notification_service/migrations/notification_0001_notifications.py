"""Notifications, whom they go to, and who is mailing them."""

from alembic import op

revision = "notification_0001"
down_revision = None
branch_labels = ("notification",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE recipients (
            user_id uuid PRIMARY KEY,
            login text NOT NULL,
            email text NOT NULL
        );

        CREATE TABLE notifications (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            order_id uuid NOT NULL,
            kind text NOT NULL,
            subject text NOT NULL,
            text text NOT NULL,
            channel text NOT NULL,
            status text NOT NULL,
            created_at timestamptz NOT NULL,
            sent_at timestamptz,
            step bigint NOT NULL,
            event_id uuid NOT NULL,
            correlation_id uuid NOT NULL,
            trace_id text NOT NULL
        ) WITH (fillfactor = 80);
        CREATE INDEX notifications_of_user ON notifications (user_id, step);
        CREATE INDEX notifications_pending ON notifications (user_id) WHERE status = 'pending';

        CREATE TABLE leases (
            notification_id uuid PRIMARY KEY,
            leased_until timestamptz NOT NULL,
            attempts integer NOT NULL
        );
        COMMENT ON TABLE leases IS 'who is mailing what just now; no fact, so replay does not make it';
    """)
