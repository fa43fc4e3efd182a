"""`choreo console`: what the verbs show, as pages."""

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer

from choreo.chassis.registry import CONSOLE_PORT_OFFSET
from choreo.console.server import REST_AFTER_SECONDS, serve
from choreo.embedded.console import wait_for_somebody
from choreo.embedded.ports import LOOPBACK, listen
from choreo.operations.reading.installation import find_installation, observed, read_settings
from choreo.operations.reading.replay_source import reading
from choreo.replay.sources.recording import Recording


def console(
    file: Annotated[Path | None, typer.Argument(help="A recording; without it, the running system.")] = None,
) -> None:
    """Serve flows, traces, records, findings and parked events as pages; stay until Ctrl-C.

    On loopback, port base + 5, where `choreo up` serves its own. Reads as the observer when somebody looks,
    and changes nothing: where something is to be done, the page shows the command. See docs/console.md.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say is on the page as well
    settings = read_settings()
    with reading():
        where = Recording(file) if file else observed(find_installation())
    if settings.http_fd is not None:
        listening = socket.socket(fileno=settings.http_fd)
        serve(where, settings.hosts.split(","), listening, _tell, REST_AFTER_SECONDS)
        return
    listening = listen(settings.port_base + CONSOLE_PORT_OFFSET, "the console")
    _tell(f"http://{LOOPBACK}:{listening.getsockname()[1]}/")
    wait_for_somebody(listening, *(["--", str(file)] if file else []))


def _tell(address: str) -> None:
    """Also through a pipe, as long as it stays."""
    print(address, flush=True)
