"""The next migration of a service, written from how its tables differ from those its migrations make."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from choreo.chassis.database.comparison import cure, differences, open_engine, statements
from choreo.chassis.database.migrate import migrate, migrations_of
from choreo.embedded.postgres import Postgres

_TEXT = '''"""{message}"""

from alembic import op

revision = "{revision}"
down_revision = {before}
branch_labels = {labels}


def upgrade() -> None:
    op.execute("""
{sql}
    """)
'''


def missing(service: str, postgres: Postgres) -> list[str]:
    """Says how the tables that its migrations make are not those of the code, and what to do."""
    with _migrated(service, postgres) as connection:
        return [cure(service, told) for told in differences(service, connection)]


@contextmanager
def _migrated(service: str, postgres: Postgres) -> Iterator[Connection]:
    """A database of today's migrations, for as long as the block takes."""
    database = f"migrating_{service}"
    owner_url, _ = postgres.create_service(service, database)
    try:
        migrate(service, owner_url)
        with open_engine(owner_url).connect() as connection:
            yield connection
    finally:
        postgres.drop_database(database)


def write_migration(service: str, message: str, postgres: Postgres) -> Path | None:
    """Returns the file that is new; None where the tables are those of the code already."""
    with _migrated(service, postgres) as connection:
        sql = statements(service, connection)
    if not sql:
        return None
    folder = migrations_of(service)
    there = sorted(path.stem for path in folder.glob(f"{service}_[0-9]*.py"))
    last = re.match(rf"{service}_\d+", there[-1])[0] if there else None  # type: ignore[index]
    revision = f"{service}_{int(last.rpartition('_')[2]) + 1 if last else 1:04}"
    words = "_".join(re.findall(r"[a-z0-9]+", message.lower())[:4]) or "tables"
    path = folder / f"{revision}_{words}.py"
    path.write_text(
        _TEXT.format(
            message=f"{message[:1].upper()}{message[1:].rstrip('.')}.",
            revision=revision,
            before=f'"{last}"' if last else None,
            labels=None if last else f'("{service}",)',
            sql="\n".join(f"        {line}" for line in sql.splitlines()),
        )
    )
    return path
