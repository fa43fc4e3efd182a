"""Migrated tables are the tables the code names, and a running service may do no more than it needs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import Connection

from choreo.chassis.database.comparison import differences, require_tables, tables_of
from choreo.chassis.database.migrate import migrate
from choreo.embedded.postgres import Postgres
from choreo.errors import Unavailable
from choreo.operations.acting.migration import missing, write_migration
from tests.component.alone import alone
from tests.databases import Database, a_database
from tests.installing import installed_beside, write
from tests.services import SERVICES

_LEG = """INSERT INTO ledger (entry_id, side, user_id, kind, amount, balance, at, step)
VALUES (gen_random_uuid(), 'customer', gen_random_uuid(), 'deposit', 1, 1, now(), 1)"""

_BEFORE_EXPIRY = """
ALTER TABLE orders DROP COLUMN event_id, DROP COLUMN correlation_id, DROP COLUMN trace_id,
    DROP COLUMN changes;
DROP INDEX orders_answered;
UPDATE alembic_version SET version_num = 'order_0002' WHERE version_num LIKE 'order_%'"""


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(service: str, postgres: Postgres, templates: dict[str, str]) -> Iterator[Database]:
    with a_database(service, postgres, templates) as database:
        yield database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    engine = create_engine("postgresql+psycopg://" + database.owner_url.partition("://")[2])
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_the_migrations_make_the_tables_the_code_names(service: str, connection: Connection) -> None:
    """Columns, types, nullability, indexes, unique constraints, comments."""
    assert differences(service, connection) == []


def test_primary_keys_and_identities(service: str, connection: Connection) -> None:
    """What alembic does not compare."""
    there = inspect(connection)
    for table in tables_of(service).tables.values():
        key = [column.name for column in table.primary_key.columns]
        assert there.get_pk_constraint(table.name)["constrained_columns"] == key, table.name
        numbered = {column["name"] for column in there.get_columns(table.name) if column.get("identity")}
        assert numbered == {column.name for column in table.columns if column.identity}, table.name


def test_partial_indexes_are_partial(service: str, connection: Connection) -> None:
    there = inspect(connection)
    for table in tables_of(service).tables.values():
        partial = {
            index["name"]
            for index in there.get_indexes(table.name)
            if index.get("dialect_options", {}).get("postgresql_where")
        }
        expected = {
            index.name for index in table.indexes if index.dialect_options["postgresql"]["where"] is not None
        }
        assert partial == expected, table.name


def test_migrating_again_changes_nothing(service: str, database: Database) -> None:
    rows = database.rows("SELECT * FROM alembic_version ORDER BY 1")
    migrate(service, database.owner_url, service)
    assert database.rows("SELECT * FROM alembic_version ORDER BY 1") == rows


async def test_orders_placed_before_orders_could_expire_know_what_that_follows_from(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    everything = "SELECT * FROM orders ORDER BY id"
    async with alone("order", postgres, templates) as orders:
        for customer in (await orders.customer(), await orders.customer()):
            await asyncio.gather(*(customer.order("1") for _ in range(3)))
        today = orders.database.rows(everything)
        with psycopg.connect(orders.database.owner_url) as conn:
            conn.execute(_BEFORE_EXPIRY.encode())
        migrate("order", orders.database.owner_url, "order")
        assert orders.database.rows(everything) == today
    assert len(today) == 6


@pytest.mark.parametrize("service", ["billing"])
def test_the_ledger_is_only_ever_added_to(database: Database) -> None:
    with psycopg.connect(database.runtime_url, autocommit=True) as conn:
        conn.execute(_LEG)
        for statement in (
            "UPDATE ledger SET amount = 2",
            "DELETE FROM ledger",
            "TRUNCATE ledger",
            "INSERT INTO ledger SELECT * FROM ledger ON CONFLICT (entry_id, side) DO UPDATE SET amount = 2",
            "DROP TABLE ledger",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
        assert conn.execute("SELECT amount FROM ledger").fetchall() == [(1,)]


@pytest.mark.parametrize("service", ["billing"])
def test_no_balance_below_zero(database: Database) -> None:
    insert = "INSERT INTO accounts VALUES (gen_random_uuid(), gen_random_uuid(), 'EUR', %s, now())"
    with psycopg.connect(database.runtime_url, autocommit=True) as conn:
        conn.execute(insert, [0])
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(insert, [-1])
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute("UPDATE accounts SET balance = balance - 1")


def test_a_service_makes_no_tables(database: Database) -> None:
    with psycopg.connect(database.runtime_url, autocommit=True) as conn:
        for statement in ("CREATE TABLE mine (id int)", "UPDATE alembic_version SET version_num = 'x'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def test_a_service_enters_no_other_services_database(
    service: str, database: Database, postgres: Postgres, templates: dict[str, str]
) -> None:
    psycopg.connect(database.runtime_url).close()
    for other in SERVICES:
        if other != service:
            url = database.runtime_url.replace(f"/{database.name}?", f"/{templates[other]}?")
            assert url != database.runtime_url
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(url)


PARCELS = """
from sqlalchemy import Column, MetaData, Table, Text, Uuid
metadata = MetaData()
parcels = Table("parcels", metadata, Column("id", Uuid, primary_key=True){more})
"""
NOTED = ', Column("note", Text, server_default="", nullable=False)'


def test_a_migration_is_written_from_what_the_tables_lack(tmp_path: Path, postgres: Postgres) -> None:
    files = {"__init__.py": "", "migrations/.keep": "", "tables.py": PARCELS.format(more="")}
    owner_url, _ = postgres.create_service("shipping", "shipping_of_today")
    with installed_beside(tmp_path, "shipping = parcels.service:service", files):
        first = write_migration("shipping", "parcels have an id", postgres)
        assert first == tmp_path / "parcels" / "migrations" / "shipping_0001_parcels_have_an_id.py"
        migrate("shipping", owner_url)
        assert write_migration("shipping", "nothing", postgres) is None

        write(tmp_path, {"tables.py": PARCELS.format(more=NOTED)})
        engine = create_engine("postgresql+psycopg://" + owner_url.partition("://")[2])
        with engine.connect() as connection:
            assert differences("shipping", connection) == ["the table parcels has no column note"]
        with pytest.raises(Unavailable, match=r"^shipping: the table parcels has no column note: run"):
            require_tables("shipping", owner_url)
        assert missing("shipping", postgres) == [
            "shipping: the table parcels has no column note: run `choreo migration shipping`, read what it "
            "writes, and start again."
        ]
        second = write_migration("shipping", "A note.", postgres)
        assert second and second.name == "shipping_0002_a_note.py"
        assert second.read_text().startswith('"""A note."""\n')
        migrate("shipping", owner_url)
        with engine.connect() as connection:
            assert differences("shipping", connection) == []
        engine.dispose()
    postgres.drop_database("shipping_of_today")
