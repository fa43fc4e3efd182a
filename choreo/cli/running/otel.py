"""`choreo otel`: traces for whoever takes OpenTelemetry's protocol."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

import typer

from choreo.chassis import clock
from choreo.chassis.environment import traces_endpoint
from choreo.embedded.home import Home
from choreo.errors import Unavailable
from choreo.operations.reading.flows import time_of
from choreo.operations.reading.installation import find_installation, find_observed_databases
from choreo.operations.reading.traces import AGAIN, UNREADABLE, CollectorAway, Follower
from choreo.replay.sources.rows import plain

_PAUSE_SECONDS = 1.0
_DEFAULT_ENDPOINT = "http://localhost:4318"
"""The SDK's."""


def otel(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Begin there, as 2030-01-31T09:00:00Z or -1h, and leave no mark; otherwise begin where it "
            "stood, and at first now.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all is told that there is now.")] = False,
) -> None:
    """Export traces to OTEL_EXPORTER_OTLP_ENDPOINT over OTLP/HTTP; stay until Ctrl-C.

    Follows the journals as the observer, and makes spans of what they say: request, transaction, publish,
    process, mail. `choreo up` runs it where that variable is set. See docs/traces.md.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say is said here as well
    here = replace(find_installation(), database_urls=find_observed_databases())
    if since:
        home, begin = None, time_of(since)
    else:
        home = Home(here.settings)
        stood = home.traced_until()
        begin = stood - AGAIN if stood else clock.now()
    try:
        from choreo.operations.reading.otlp import Collector  # here, as it needs what few have installed
    except ModuleNotFoundError as missing:
        raise Unavailable(f"{missing.name} is not installed: install choreo-kafka[otel].") from None
    collector = Collector()
    follower = Follower(here, collector.take, begin)
    _say(f"exporting traces to {_where()}, of what was decided since {plain(begin)}")
    with suppress(KeyboardInterrupt):
        asyncio.run(_follow(follower, collector.close, home, clock.now() if once else None))
    _say(f"{follower.count} spans were exported")


async def _follow(
    follower: Follower, hang_up: Callable[[], None], home: Home | None, until: datetime | None
) -> None:
    """Until all of that is told, or for ever: then whatever is away is waited for."""
    trouble: type[Exception] | None = None
    try:
        while until is None or not follower.has_told(until):
            try:
                more = await follower.look()
                if trouble:
                    trouble = None
                    _say("going on")
            except (*UNREADABLE, CollectorAway) as error:
                if until:
                    raise Unavailable(f"Nothing more can be exported: {_sentence(error)}") from error
                more = False
                if trouble is not type(error):
                    trouble = type(error)
                    _say(f"waiting: {_sentence(error)}")
            if home:
                home.remember_traced(follower.told_until)
            if not more:
                await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        hang_up()
        await follower.close()


def _sentence(error: Exception) -> str:
    told = (str(error) or repr(error)).splitlines()[0]
    return f"{_where()} does not take them: {told}" if isinstance(error, CollectorAway) else told


def _where() -> str:
    """Without what may be a password in it."""
    return urlsplit(traces_endpoint() or _DEFAULT_ENDPOINT).netloc.rpartition("@")[2]


def _say(what: str) -> None:
    """Also through a pipe, as long as it stays."""
    print(what, flush=True)
