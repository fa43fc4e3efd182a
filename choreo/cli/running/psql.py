"""`choreo psql`: a look into a service's database."""

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import unquote, urlsplit, urlunsplit

import typer

from choreo.chassis.registry import service_names
from choreo.embedded.postgres import WHEEL, binaries
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.installation import find_observed_databases


def psql(
    service: Annotated[str, typer.Argument(help="Whose database.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="For psql, after --, as -- -c 'TABLE orders'.", metavar="[-- …]"),
    ] = None,
) -> None:
    """Open psql on a service's database: as the observer, where the databases are ours; for reading alone."""
    if service not in service_names():
        raise UsageError(f"{service} is no service: there are {', '.join(service_names())}.")
    url, password = without_password(find_observed_databases()[service])
    program = str(binaries() / "psql") if find_spec(WHEEL) else shutil.which("psql")
    if program is None:
        raise Unavailable("There is no psql: install PostgreSQL's client.")
    # psql itself makes Ctrl-C end a query.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run([program, url, *(arguments or ())], env=os.environ | password | _READ_ONLY)
    finally:
        signal.signal(signal.SIGINT, previous)
    raise typer.Exit(done.returncode)


_READ_ONLY = {"PGOPTIONS": "-c default_transaction_read_only=on -c TimeZone=UTC", "PGAPPNAME": "choreo psql"}


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """Returns the URL as it may be seen among the processes, and what goes in by the environment."""
    parts = urlsplit(url)
    who, at, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{where}")), {"PGPASSWORD": unquote(password)}
