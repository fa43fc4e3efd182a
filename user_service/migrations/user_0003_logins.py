"""Of a failed login only digests are kept, and which pairs of login and address are known."""

from alembic import op

revision = "user_0003"
down_revision = "user_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Who had to wait a quarter of an hour may try again.
    op.execute("""
        DROP TABLE failed_logins;

        CREATE TABLE failed_logins (
            position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            pair bytea NOT NULL,
            address bytea NOT NULL,
            at timestamptz NOT NULL
        );
        CREATE INDEX failed_logins_pair ON failed_logins (pair, at);
        CREATE INDEX failed_logins_address ON failed_logins (address, at);
        COMMENT ON TABLE failed_logins IS
            'secret: who may not try again yet; digests of login and address, and of the address';

        CREATE TABLE known_pairs (
            pair bytea PRIMARY KEY,
            at timestamptz NOT NULL
        );
        CREATE INDEX known_pairs_at ON known_pairs (at);
        COMMENT ON TABLE known_pairs IS
            'secret: digests of a login and an address it came from, and when it did last';
    """)
