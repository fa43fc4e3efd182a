"""`choreo keys`: the keys that tokens are signed with."""

import asyncio
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any

import psycopg
import typer
from prometheus_client import CollectorRegistry
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from choreo.chassis import clock
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe.meter import Meter
from choreo.chassis.transaction import inputs
from choreo.chassis.transaction.kernel import Kernel
from choreo.errors import Unavailable
from choreo.operations.reading.installation import Installation, find_installation
from user_service.service import service
from user_service.signing import SETTLED, VERIFIES_ON, Signer

_ACKNOWLEDGED_WITHIN = 5.0
_LOOK_AGAIN = 0.1

app = typer.Typer(no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Keys that tokens are signed with: rotate."""


@app.command("rotate")
def rotate(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False) -> None:
    """Make a new signing key and publish it. No request fails meanwhile.

    It begins to sign ten seconds later, once Kafka has it, so that every service knows it by then.

    The key before it is retired after that: it verifies until the tokens it signed have expired.
    """
    try:
        rotation = asyncio.run(rotated(find_installation()))
    except (inputs.Unavailable, SQLAlchemyError, psycopg.Error, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise Unavailable(f"The user database cannot be used: {reason}; see that the system runs.") from error
    if as_json:
        print(json.dumps(asdict(rotation), indent=2, default=str))
        return
    when = f"from {rotation.signs_from:%H:%M:%S} UTC on"
    if rotation.acknowledged:
        print(f"{rotation.kid} is published, and signs {when}.")
    else:
        print(f"{rotation.kid} waits for Kafka, and signs once that has it, not before {when[5:]}.")
    minutes = VERIFIES_ON.total_seconds() / 60
    for kid in rotation.before:
        print(f"{kid} signs until then, and verifies for about {minutes:.0f} minutes more.")


@dataclass(frozen=True, slots=True)
class Rotation:
    kid: str
    acknowledged: bool
    """Kafka has it."""
    signs_from: datetime
    before: tuple[str, ...]
    """The keys that go on signing until then."""


async def rotated(installation: Installation) -> Rotation:
    """The new key comes into being as any fact of the user service, in one transaction of its kernel.

    The user service finds it in its tables; its relay publishes it. Nothing has to be told.
    """
    described = service(installation.settings)
    async with installation.engines() as engines:
        engine = engines[described.name]
        kernel = Kernel(
            described.decider,
            described.store,
            engine,
            partition_of=lambda key: partition_of(key, installation.settings.partitions),
            clock=clock.now,
            meter=Meter(CollectorRegistry()),
        )
        signer = Signer(kernel, engine, clock.now)
        running = asyncio.create_task(kernel.run())
        try:
            before = await signer.good_keys()
            kid = await signer.publish()
            key = await _seen_off(signer, kid)
        finally:
            running.cancel()
            await asyncio.wait([running])
    return Rotation(kid, key.acknowledged, key.published_at + SETTLED, tuple(key.kid for key in before[-1:]))


async def _seen_off(signer: Signer, kid: str) -> Row[Any]:
    """The key as it stands once Kafka has it, or after `_ACKNOWLEDGED_WITHIN` seconds."""
    deadline = asyncio.get_running_loop().time() + _ACKNOWLEDGED_WITHIN
    while True:
        (key,) = [key for key in await signer.good_keys() if key.kid == kid]
        if key.acknowledged or asyncio.get_running_loop().time() > deadline:
            return key
        await asyncio.sleep(_LOOK_AGAIN)
