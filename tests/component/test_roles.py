"""What the database itself refuses: another service's data, and a change of what is only ever added to."""

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from choreo.embedded.postgres import Postgres
from tests.databases import Database, a_database
from tests.services import SERVICES


@pytest.fixture(scope="module")
def databases(postgres: Postgres, templates: dict[str, str]) -> Iterator[dict[str, Database]]:
    with ExitStack() as stack:
        yield {service: stack.enter_context(a_database(service, postgres, templates)) for service in SERVICES}


@pytest.mark.parametrize("theirs", SERVICES)
@pytest.mark.parametrize("role", SERVICES)
def test_a_role_enters_its_own_database_alone(databases: dict[str, Database], role: str, theirs: str) -> None:
    for url in (databases[role].runtime_url, databases[role].owner_url):
        there = url.replace(f"/{databases[role].name}?", f"/{databases[theirs].name}?")
        if role == theirs:
            psycopg.connect(there).close()
        else:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(there)


APPEND_ONLY = """SELECT relname FROM pg_class JOIN pg_description ON objoid = pg_class.oid AND objsubid = 0
WHERE relkind = 'r' AND description LIKE 'append-only%%'"""


def test_the_ledger_is_append_only(databases: dict[str, Database]) -> None:
    tables = {service: {table for (table,) in databases[service].rows(APPEND_ONLY)} for service in SERVICES}
    assert "ledger" in tables["billing"]


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_only_ever_added_to_cannot_be_changed(databases: dict[str, Database], service: str) -> None:
    for (table,) in databases[service].rows(APPEND_ONLY):
        column = databases[service].rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1", table
        )[0][0]
        name, column = sql.Identifier(table), sql.Identifier(column)
        for statement in (
            sql.SQL("UPDATE {} SET {} = DEFAULT").format(name, column),
            sql.SQL("DELETE FROM {}").format(name),
            sql.SQL("TRUNCATE {}").format(name),
            sql.SQL("DROP TABLE {}").format(name),
        ):
            with (
                psycopg.connect(databases[service].runtime_url) as conn,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                conn.execute(statement)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_changes_no_table_and_makes_no_role(databases: dict[str, Database], service: str) -> None:
    for statement in (
        "CREATE TABLE mine ()",
        "ALTER TABLE keys ADD COLUMN mine int",
        "INSERT INTO alembic_version VALUES ('mine')",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "CREATE TEMPORARY TABLE mine ()",
    ):
        with (
            psycopg.connect(databases[service].runtime_url, autocommit=True) as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute(statement.encode())
