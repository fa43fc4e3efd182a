"""`choreo up`: everything, in order, until told to stop."""

from typing import Annotated

import typer

from choreo.errors import UsageError
from choreo.operations.acting.reporter import Reporter
from choreo.operations.acting.system import System
from choreo.operations.reading.installation import read_settings
from choreo.operations.replicas import read_counts
from choreo.styles.composition import STYLES, require_style


def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete all data first; keeps downloads.")] = False,
    brokers: Annotated[
        int | None,
        typer.Option(help="1 or 3, for the first start: the data keeps the number. By default 1."),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(STYLES),
            help="How the services are wired; the data keeps it. By default collaboration.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
    console: Annotated[
        bool, typer.Option("--console/--no-console", help="Serve `choreo console` as long as it runs.")
    ] = True,
    replicas: Annotated[
        str, typer.Option(help="Processes of each service, as order=2,billing=3; otherwise one.")
    ] = "",
) -> None:
    """Start Kafka, Postgres and the services; stay until Ctrl-C.

    What KAFKA_BOOTSTRAP_SERVERS, the *_DATABASE_URL and SMTP_URL name is used instead of started.
    """
    counts = read_counts(replicas)
    if brokers not in (None, 1, 3):
        raise UsageError("choreo up --brokers takes 1 or 3: one node, or as many as it takes to lose one.")
    if style is not None:
        require_style(style)
    System(read_settings(), Reporter(as_json), brokers, style, console).run(fresh, counts)
