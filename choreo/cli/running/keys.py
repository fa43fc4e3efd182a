"""`choreo keys`: the keys that tokens are signed with."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import psycopg
import typer
from sqlalchemy.exc import SQLAlchemyError

from choreo.chassis.transaction import inputs
from choreo.errors import Unavailable
from choreo.operations.acting.rotation import rotated
from choreo.operations.reading.installation import find_installation

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
        raise Unavailable(
            f"The database of the service that signs cannot be used: {reason}; see that the system runs."
        ) from error
    if as_json:
        told = {name: value for name, value in asdict(rotation).items() if name != "then_verify_for"}
        print(json.dumps(told, indent=2, default=str))
        return
    when = f"from {rotation.signs_from:%H:%M:%S} UTC on"
    if rotation.acknowledged:
        print(f"{rotation.kid} is published, and signs {when}.")
    else:
        print(f"{rotation.kid} waits for Kafka, and signs once that has it, not before {when[5:]}.")
    minutes = rotation.then_verify_for.total_seconds() / 60
    for kid in rotation.before:
        print(f"{kid} signs until then, and verifies for about {minutes:.0f} minutes more.")
