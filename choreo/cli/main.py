"""The command line: thin verbs. A new one is a module and a function of its name, and a word below."""

import ast
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException
from typer.main import get_group

from choreo.chassis.code_version import code_version
from choreo.chassis.environment import ignore_libpq_variables, read_env_file
from choreo.collector import no_collector
from choreo.errors import HandlerMisbehaves, Incomplete, Unavailable, UsageError
from choreo.terminal import fitting, print_text_alone

VERBS = {
    "up": "running",
    "run": "running",
    "scale": "running",
    "migrate": "running",
    "provision": "running",
    "demo": "running",
    "bench": "programmes",
    "bench-peers": "programmes",
    "chaos": "programmes",
    "simulate": "programmes",
    "audit": "programmes",
    "styles": "programmes",
    "logs": "running",
    "psql": "running",
    "env": "running",
    "doctor": "running",
    "console": "running",
    "otel": "running",
    "docs": "programmes",
    "migration": "programmes",
    "new": "programmes",
    "flows": "debugging",
    "trace": "debugging",
    "log": "debugging",
    "record": "debugging",
    "verify": "debugging",
    "minimize": "debugging",
    "state": "debugging",
    "blame": "debugging",
    "replay": "debugging",
    "rebuild": "debugging",
    "dlq": "running",
    "keys": "running",
}
"""In the order in which they are listed, with the room of each."""


class Verb(TyperCommand):
    """Imported once it is run: all of them together take a second, and none needs what the others need. So is
    its help read once it is shown.
    """

    @property
    def help(self) -> str | None:
        return _docstring(str(self.name))

    @help.setter
    def help(self, given: str | None) -> None:
        assert given is None

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return imported(str(self.name)).make_context(info_name, args, parent, **extra)


def imported(verb: str) -> Any:
    """The command itself, with its options; of `dlq` and `keys` the group."""
    name = _identifier(verb)
    with no_collector():
        module, alone = import_module(f"choreo.cli.{VERBS[verb]}.{name}"), typer.Typer()
    if group := getattr(module, "app", None):
        alone.add_typer(group, name=verb)
    else:
        alone.command()(getattr(module, name))
    return get_group(alone).commands[verb]


def _docstring(verb: str) -> str | None:
    """Of the verb's function, read and not imported."""
    name = _identifier(verb)
    parsed = ast.parse((Path(__file__).parent / VERBS[verb] / f"{name}.py").read_text())
    (found,) = (one for one in parsed.body if isinstance(one, ast.FunctionDef) and one.name == name)
    return ast.get_docstring(found)


def _identifier(verb: str) -> str:
    """`bench-peers` → `bench_peers`, as its module and its function are called."""
    return verb.replace("-", "_")


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"choreo {code_version()}")
        raise typer.Exit


@app.callback()
def choreo(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and the commit.", callback=_tell_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run, watch and debug services that meet only through Kafka."""


for verb in VERBS:
    app.command(verb, cls=Verb)(lambda: None)


def main() -> NoReturn:
    """Exits with what the verb says; 64 for wrong usage, 69 where something it needs is not to be had."""
    ignore_libpq_variables()
    read_env_file()
    print_text_alone()
    try:
        if VERBS.get(next(iter(sys.argv[1:]), "")) == "debugging":
            with no_collector():
                sandbox = import_module("choreo.replay.engine.sandbox")
            sandbox.interrupt_at_once()
            sandbox.refuse_always()
        _log_what_is_wrong()
        # Not standalone: there typer itself exits with 2 for wrong usage, and verbs give 2 another meaning.
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        from typer.rich_utils import rich_format_error  # seldom needed, and not fast

        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(UsageError.exit_code)
    except (UsageError, HandlerMisbehaves, Incomplete, Unavailable) as error:
        print(fitting(f"choreo: {error}", sys.stderr, 8), file=sys.stderr)
        sys.exit(error.exit_code)


def _log_what_is_wrong() -> None:
    """What the services' code has to say while a verb runs it: only what is wrong, and beside the output.

    The pretty tracebacks print local variables, passwords among them.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()
