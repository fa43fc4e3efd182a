"""Whether the tables in a database are those that the code names: in words, or as what would make them so."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import OpContainer
from sqlalchemy import Connection, Engine, MetaData, create_engine, pool

from choreo.chassis.database import tables as chassis_tables
from choreo.chassis.database.connection import session
from choreo.chassis.installed import room_of
from choreo.errors import Unavailable


def tables_of(service: str) -> MetaData:
    """The chassis' and the service's own, as the code has them."""
    together = MetaData()
    for metadata in (chassis_tables.metadata, room_of(service, "tables").metadata):
        for table in metadata.tables.values():
            table.to_metadata(together)
    return together


def differences(service: str, connection: Connection) -> list[str]:
    """How the tables are not those of the code: columns, types, nullability, indexes, comments."""
    found = compare_metadata(_context(connection), tables_of(service))
    return [_in_words(one[0] if isinstance(one, list) else one) for one in found]


def require_tables(service: str, url: str) -> None:
    """Raises `Unavailable` where the tables are not those of the code, as when a migration is missing."""
    with open_engine(url).connect() as connection:
        told = differences(service, connection)
    if told:
        raise Unavailable(cure(service, told[0]))


def cure(service: str, difference: str) -> str:
    return f"{service}: {difference}: run `choreo migration {service}`, read what it writes, and start again."


def open_engine(url: str) -> Engine:
    """Whose sessions end with their use."""
    return create_engine("postgresql+psycopg://", connect_args=session(url), poolclass=pool.NullPool)


def statements(service: str, connection: Connection) -> str:
    """The SQL that makes them so; empty where they are."""
    wanted = produce_migrations(_context(connection), tables_of(service)).upgrade_ops
    told = StringIO()
    offline = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": told}
    )
    for operation in _each(wanted):
        Operations(offline).invoke(operation)
    return "\n".join(line.rstrip() for line in told.getvalue().splitlines() if line.strip())


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"compare_type": True})


def _each(operation: Any) -> Iterator[Any]:
    if isinstance(operation, OpContainer):
        for one in operation.ops:
            yield from _each(one)
    elif operation is not None:
        yield operation


def _in_words(difference: Any) -> str:
    match difference:
        case ("add_table", table):
            return f"there is no table {table.name}"
        case ("remove_table", table):
            return f"there is a table {table.name}, and tables.py has none"
        case ("add_column", _, table, column):
            return f"the table {table} has no column {column.name}"
        case ("remove_column", _, table, column):
            return f"the table {table} has a column {column.name}, and in tables.py it has none"
        case (str(what), _, str(table), str(column), *_):
            return f"the {what.removeprefix('modify_')} of {table}.{column} is not that of tables.py"
        case (str(what), thing, *_):
            return f"{what.replace('_', ' ')} {getattr(thing, 'name', thing)}"
    return str(difference)
