"""Users, and the secrets that are no facts."""

from alembic import op

revision = "user_0001"
down_revision = None
branch_labels = ("user",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE users (
            id uuid PRIMARY KEY,
            login text NOT NULL,
            login_key text NOT NULL UNIQUE,
            email text NOT NULL,
            email_key text NOT NULL UNIQUE,
            created_at timestamptz NOT NULL,
            step bigint NOT NULL
        );

        CREATE TABLE credentials (
            user_id uuid PRIMARY KEY,
            password_hash text NOT NULL
        );
        COMMENT ON TABLE credentials IS 'secret: made beside the fact, in its transaction';

        CREATE TABLE private_keys (
            kid text PRIMARY KEY,
            private_jwk jsonb NOT NULL,
            event_id uuid NOT NULL,
            published_at timestamptz NOT NULL,
            not_after timestamptz NOT NULL
        );
        COMMENT ON TABLE private_keys IS
            'secret: what tokens are signed with, once the public half is known to everybody';

        CREATE TABLE failed_logins (
            login_key text NOT NULL,
            address text NOT NULL,
            at timestamptz NOT NULL,
            PRIMARY KEY (login_key, address, at)
        );
        COMMENT ON TABLE failed_logins IS 'secret: who may not try again yet';
    """)
