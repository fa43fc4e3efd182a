"""Pinboards, and what is pinned to them."""

from alembic import op

revision = "pinboard_0001"
down_revision = None
branch_labels = ("pinboard",)


def upgrade() -> None:
    op.execute("""
        CREATE TABLE boards (
            user_id uuid PRIMARY KEY,
            notes integer NOT NULL,
            most_notes integer NOT NULL,
            opened_at timestamptz NOT NULL
        );

        CREATE TABLE notes (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            text text NOT NULL,
            at timestamptz NOT NULL,
            step bigint NOT NULL
        );
        CREATE INDEX notes_of_user ON notes (user_id, step);
    """)
