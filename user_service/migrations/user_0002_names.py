"""Logins and e-mail addresses are compared by NFKC and casefold, and no longer by casefold alone.

Two names that were two may be one now. Both users keep their rows as their facts make them, so where that is
so the key is not unique any more: the older has the name, and `choreo doctor` lists both.
"""

from unicodedata import normalize

import sqlalchemy as sa
from alembic import op

revision = "user_0002"
down_revision = "user_0001"
branch_labels = None
depends_on = None


def _compared(name: str) -> str:
    return normalize("NFKC", normalize("NFKC", name).casefold())


def upgrade() -> None:
    conn = op.get_bind()
    query = sa.text("SELECT id, login, login_key, email, email_key FROM users")
    rows = conn.execute(query.execution_options(stream_results=True))
    changed = [
        {"id": row.id, "login_key": _compared(row.login), "email_key": _compared(row.email)}
        for row in rows
        if (row.login_key, row.email_key) != (_compared(row.login), _compared(row.email))
    ]
    if not changed:
        return
    op.execute("ALTER TABLE users DROP CONSTRAINT users_login_key_key, DROP CONSTRAINT users_email_key_key")
    conn.execute(
        sa.text("UPDATE users SET login_key = :login_key, email_key = :email_key WHERE id = :id"), changed
    )
    for name in ("login_key", "email_key"):
        twice = conn.execute(
            sa.text(f"SELECT FROM users GROUP BY {name} HAVING count(*) > 1 LIMIT 1")
        ).first()
        if twice is None:
            op.execute(f"ALTER TABLE users ADD CONSTRAINT users_{name}_key UNIQUE ({name})")
        else:
            op.execute(f"CREATE INDEX users_{name}_key ON users ({name})")
