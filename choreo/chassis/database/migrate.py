"""Brings a service's database to today's tables: the chassis' own, then the service's."""

from importlib import import_module
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql

from choreo.chassis.database.connection import session
from choreo.chassis.installed import package_of

_FOLDER = Path(__file__).parent / "migrations"


def migrate(
    service: str, owner_url: str, runtime_role: str | None = None, observer: str | None = None
) -> None:
    """Safe to repeat. `runtime_role` is let in as far as a running service needs, and no further; the role
    `observer` may read what is no secret.
    """
    config = Config()
    versions = [_FOLDER / "versions", migrations_of(service)]
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, versions)))
    config.attributes["url"] = owner_url
    command.upgrade(config, "heads")
    if runtime_role is not None:
        _grant(owner_url, runtime_role)
    if observer is not None:
        _show(owner_url, observer)


def migrations_of(service: str) -> Path:
    """Of its package, wherever that is installed."""
    folders = [Path(folder) / "migrations" for folder in import_module(package_of(service)).__path__]
    return next(folder for folder in folders if folder.is_dir())


def _grant(owner_url: str, role: str) -> None:
    """Reading and writing, but nothing that changes what was written once: see each table's comment."""
    with psycopg.connect(**session(owner_url)) as conn:
        name = sql.Identifier(role)
        conn.execute(
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}").format(name)
        )
        conn.execute(sql.SQL("REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {}").format(name))
        for (table,) in conn.execute(
            "SELECT relname FROM pg_class JOIN pg_description ON objoid = pg_class.oid AND objsubid = 0 "
            "WHERE relkind = 'r' AND description LIKE 'append-only%'"
        ).fetchall():
            conn.execute(
                sql.SQL("REVOKE UPDATE, DELETE, TRUNCATE ON {} FROM {}").format(sql.Identifier(table), name)
            )


def _show(owner_url: str, role: str) -> None:
    """Every table that is there by now. One by one, so that a secret one is not open even for a moment."""
    with psycopg.connect(**session(owner_url)) as conn:
        for (table,) in conn.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
            "AND coalesce(obj_description(oid, 'pg_class'), '') NOT LIKE 'secret%'"
        ).fetchall():
            conn.execute(
                sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(table), sql.Identifier(role))
            )
