"""`choreo migration`: the next migration of a service, written from what changed in its tables."""

from pathlib import Path
from typing import Annotated

import typer

from choreo.chassis.installed import package_of
from choreo.embedded.testing import postgres_for_tests
from choreo.operations.acting.migration import write_migration


def migration(
    service: Annotated[str, typer.Argument(help="Whose tables.py was changed.")],
    message: Annotated[
        str, typer.Option("--message", "-m", help="What it is for, in a sentence.")
    ] = "Tables",
) -> None:
    """Write the migration that makes a service's tables what its tables.py says. Read it before it is run.

    Compares with what the migrations make so far, in a Postgres that is started for it and gone afterwards.
    """
    package_of(service)  # or say that it is not here
    with postgres_for_tests() as postgres:
        written = write_migration(service, message, postgres)
    if written is None:
        print(f"{service}: its migrations make the tables that tables.py says")
    else:
        place = written.relative_to(Path.cwd()) if written.is_relative_to(Path.cwd()) else written
        print(f"{place} is new: read it, above all where rows are there already")
