"""The command line: thin verbs. A new one is an import and a line below."""

import logging
import sys
from typing import NoReturn

import structlog
import typer
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from choreo.bench import bench
from choreo.blame import blame
from choreo.chaos import chaos
from choreo.demo import demo
from choreo.dlq import app as dlq
from choreo.docs import docs
from choreo.doctor import doctor
from choreo.errors import Incomplete, UsageError
from choreo.keys import app as keys
from choreo.migrate import migrate
from choreo.minimize import minimize
from choreo.provision import provision
from choreo.rebuild import rebuild
from choreo.record import record
from choreo.replay import replay
from choreo.scale import scale
from choreo.state_at import state
from choreo.trace import trace
from choreo.up import up
from choreo.verify import verify
from embedded.process import Unavailable

app = typer.Typer(
    help="A small shop of four services that meet only through Kafka.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(lambda: None)
app.command()(up)
app.command()(scale)
app.command()(migrate)
app.command()(provision)
app.command()(demo)
app.command()(bench)
app.command()(chaos)
app.add_typer(dlq, name="dlq")
app.add_typer(keys, name="keys")
app.command()(doctor)
app.command()(docs)
app.command()(trace)
app.command()(record)
app.command()(verify)
app.command()(minimize)
app.command()(state)
app.command()(blame)
app.command()(replay)
app.command()(rebuild)


def main() -> NoReturn:
    """Exits with what the verb says; 64 for wrong usage, 69 where something it needs is not to be had."""
    # What the services' code has to say while a verb runs it: only what is wrong, and beside the output.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        # Not standalone: there typer itself exits with 2 for wrong usage, and verbs give 2 another meaning.
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(UsageError.exit_code)
    except (UsageError, Incomplete, Unavailable) as error:
        print(f"choreo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
