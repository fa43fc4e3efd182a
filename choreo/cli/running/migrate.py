"""`choreo migrate`: tables in databases that are not ours."""

from typing import Annotated

import typer

from choreo.errors import Unavailable
from choreo.operations.acting.databases import external_databases, migrate_external
from choreo.operations.reading.installation import read_settings


def migrate(
    grant: Annotated[
        bool, typer.Option("--grant", help="Let in the role that is named like the service, and no further.")
    ] = False,
) -> None:
    """Bring the databases in the *_DATABASE_URL to today's tables, as their owner. Safe to repeat."""
    databases = external_databases(read_settings())
    if not databases:
        raise Unavailable("The ..._DATABASE_URL are not set: name every service's database, as its owner.")
    for service, url in databases.items():
        migrate_external(service, url, service if grant else None)
        print(f"{service}: as it must be")
