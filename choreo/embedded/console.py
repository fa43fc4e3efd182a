"""The console's process: there while somebody looks, and begun again for whoever comes next.

    python -m choreo.embedded.console SOCKET [FILE]

listens meanwhile, on a socket that is handed to it, and holds nothing else in memory.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from choreo.embedded.part import OnDemand
from choreo.embedded.supervise import Supervisor


def console_on(
    listening: socket.socket, log: Path, environment: Mapping[str, str], *arguments: str
) -> OnDemand:
    """`arguments` are those of `choreo console`."""
    console: OnDemand = OnDemand(
        "console",
        [sys.executable, "-m", "choreo.cli.main", "console", *arguments],
        log=log,
        probe=lambda: "http://" in console.running.output(),  # said once it listens
        env={**environment, "CHOREO_HTTP_FD": str(listening.fileno())},
        listening=listening,
    )
    return console


def wait_for_somebody(listening: socket.socket, *arguments: str) -> None:
    """Becomes a small process that does nothing else, until it is told to stop. Returns never."""
    listening.set_inheritable(True)
    words = [sys.executable, "-m", "choreo.embedded.console", str(listening.fileno()), *arguments]
    os.execv(sys.executable, words)


def _main(fd: str, *arguments: str) -> None:
    with tempfile.TemporaryDirectory(prefix="choreo-console-") as directory:
        log, listening = Path(directory) / "console.log", socket.socket(fileno=int(fd))
        with Supervisor(lambda line: print(line, file=sys.stderr, flush=True)) as system:
            system.add_at_rest(console_on(listening, log, os.environ, *arguments))
            system.watch()


if __name__ == "__main__":
    _main(*sys.argv[1:])
