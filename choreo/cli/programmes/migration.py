"""`choreo migration`: the next migration of a service, written from what changed in its tables."""

from pathlib import Path
from typing import Annotated

import typer

from choreo.chassis.installed import require_services
from choreo.chassis.registry import service_names
from choreo.embedded.testing import postgres_for_tests
from choreo.errors import UsageError
from choreo.operations.acting.migration import missing, write_migration


def migration(
    service: Annotated[str | None, typer.Argument(help="Whose tables.py was changed.")] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", help="What it is for, in a sentence.")
    ] = "Tables",
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 if a migration is missing. Of all services."),
    ] = False,
) -> None:
    """Write the migration that makes a service's tables what its tables.py says. Read it before it is run.

    Compares with what the migrations make so far, in a Postgres that is started for it and gone afterwards.
    """
    services = [service] if service else service_names()
    require_services(services)
    if check:
        with postgres_for_tests() as postgres:
            told = [sentence for name in services for sentence in missing(name, postgres)]
        for sentence in told:
            print(sentence)
        raise typer.Exit(1 if told else 0)
    if service is None:
        raise UsageError("Name the service whose tables.py was changed, or take --check.")
    with postgres_for_tests() as postgres:
        written = write_migration(service, message, postgres)
    if written is None:
        print(f"{service}: its migrations make the tables that tables.py says")
    else:
        place = written.relative_to(Path.cwd()) if written.is_relative_to(Path.cwd()) else written
        print(f"{place} is new: read it, above all where rows are there already")
