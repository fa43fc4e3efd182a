"""`choreo logs`: what the parts of a system say."""

import time
from typing import Annotated

import typer

from choreo.embedded.home import Home
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.installation import read_settings
from choreo.operations.reading.logs import LogTail, log_files

_LOOK_AGAIN_SECONDS = 0.2


def logs(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="As order, order-2 or kafka; all if left out.", metavar="[PART]…"),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="So many lines of each, at first.")] = 20,
) -> None:
    """Print what Kafka, Postgres, mail and the services have logged, also of a system that has stopped.

    Of more than one part each line begins with its name.
    """
    directory = Home(read_settings()).logs
    if not (files := log_files(directory)):
        raise Unavailable(f"There are no logs in {directory}: see CHOREO_HOME and CHOREO_PORT_BASE.")
    wanted = parts or list(files)
    if unknown := [part for part in wanted if part not in files]:
        raise UsageError(f"{unknown[0]} has no log: there are {', '.join(files)}.")
    width = max(map(len, wanted)) if len(wanted) > 1 else 0
    tails = {part: LogTail(files[part], last) for part in wanted}
    try:
        while True:
            for part, tail in tails.items():
                for line in tail.new_lines():
                    print(f"{part:<{width}} | {line}" if width else line, flush=follow)
            if not follow:
                return
            time.sleep(_LOOK_AGAIN_SECONDS)
    except KeyboardInterrupt:
        return
