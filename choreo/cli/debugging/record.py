"""`choreo record`: what happened, as a file that can be carried away and replayed elsewhere."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psycopg
import typer

from choreo.chassis.database.tables import keys as keys_table
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import services
from choreo.collector import no_collector
from choreo.errors import Unavailable, UsageError
from choreo.operations.reading.installation import Installation, find_installation
from choreo.progress import telling
from choreo.replay.sources.live import open_live
from choreo.replay.sources.recording import Recording, Writer, size_of
from choreo.replay.sources.records import Broken
from choreo.replay.sources.redaction import Redaction
from choreo.replay.verify.digesting import Digesting
from choreo.terminal import print_line


def record(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; gzipped if its name ends in .gz.")],
    flow: Annotated[str | None, typer.Option(help="Only the keys that this flow touches.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Only keys that did something since (RFC 3339).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Nothing that was decided later (RFC 3339).")] = None,
    with_addresses: Annotated[
        bool, typer.Option("--with-addresses", help="Keep e-mail addresses readable.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Write topics and journals of the running system into a file. Reads only.

    Every key that is in it is in it from its beginning: `choreo verify FILE` can replay it anywhere. E-mail
    addresses are replaced, equal ones by equal ones.
    """
    if flow and (since or until):
        raise UsageError("choreo record takes --flow, or --from and --until, not both.")
    selection: dict[str, Any] = {
        "flow": _flow(flow) if flow else None,
        "since": _time(since) if since else None,
        "until": _time(until) if until else None,
    }
    try:
        asyncio.run(recorded(find_installation(), out, with_addresses=with_addresses, **selection))
    except (psycopg.Error, *LOG_UNREADABLE, Broken, OSError) as error:
        raise Unavailable(f"Nothing was recorded: {str(error).splitlines()[0]}") from error
    manifest = Recording(out).manifest
    if as_json:
        print(json.dumps(manifest, indent=2))
        return
    for what, count in sorted(manifest["counts"].items()):
        print(f"{what:<40} {count:>9}")
    for gap in manifest["gaps"]:
        print(f"{gap['topic']}[{gap['partition']}] lacks offsets {gap['from']} to {gap['to'] - 1}")
    hidden = "replaced" if manifest["redacted"] else "readable"
    print_line(f"{out}: {out.stat().st_size / 1e3:,.0f} kB, e-mail addresses {hidden}")


async def recorded(
    installation: Installation,
    out: Path,
    *,
    with_addresses: bool = False,
    flow: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Raises what reading Kafka and Postgres raises; then there is no file."""
    done = 0
    opened = open_live(
        installation.kafka,
        installation.database_urls,
        installation.settings,
        flow=flow,
        since=since,
        until=until,
    )
    with telling() as tell, no_collector():
        async with opened as source:
            known = services(installation.settings)
            digesting = Digesting(source.cut, known)
            redaction = None if with_addresses else Redaction()
            with Writer(out, digesting.cut, redaction, digesting.add) as writer:
                async for batch in source.batches():
                    writer.write(batch)
                    done += len(batch)
                    tell("recording", done, size_of(source))
                for name, service in known.items():
                    for mapping in service.store.mappings:
                        await writer.digest(
                            source, name, mapping.table, digesting.rows_of(name, mapping.table)
                        )
                    await writer.digest(source, name, keys_table)
                writer.finish()


def _flow(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"{text} is no flow id: see the Flow-Id of an answer.") from None


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    except ValueError:
        pass
    raise UsageError(f"{text} is no RFC 3339 time with a time zone.")
