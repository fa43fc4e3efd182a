"""Accounts, payments and the ledger."""

from alembic import op

revision = "billing_0001"
down_revision = None
branch_labels = ("billing",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE accounts (
            user_id uuid PRIMARY KEY,
            id uuid NOT NULL UNIQUE,
            currency text NOT NULL,
            balance bigint NOT NULL CHECK (balance >= 0),
            created_at timestamptz NOT NULL
        ) WITH (fillfactor = 70);

        CREATE TABLE payments (
            order_id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            amount bigint NOT NULL CHECK (amount > 0),
            outcome text NOT NULL,
            step bigint NOT NULL,
            event_id uuid NOT NULL,
            correlation_id uuid NOT NULL,
            trace_id text NOT NULL
        );
        CREATE INDEX payments_waiting ON payments (user_id) WHERE outcome = 'waiting';

        CREATE TABLE ledger (
            entry_id uuid NOT NULL,
            side text NOT NULL,
            user_id uuid NOT NULL,
            kind text NOT NULL,
            amount bigint NOT NULL,
            balance bigint NOT NULL CHECK (balance >= 0),
            order_id uuid,
            at timestamptz NOT NULL,
            step bigint NOT NULL,
            PRIMARY KEY (entry_id, side)
        );
        CREATE INDEX ledger_entries ON ledger (user_id, step) WHERE side = 'customer';
        COMMENT ON TABLE ledger IS 'append-only: two legs per entry, which sum to zero';
    """)
