"""`choreo docs`: the published API documents and what other files say of each service, made from the code."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from choreo.chassis.agreement import all_disagreements
from choreo.chassis.installed import entry_points_of
from choreo.chassis.registry import examples, port_of, service_names, service_of
from choreo.chassis.runtime import build_of
from choreo.chassis.settings import Settings
from choreo.cli.programmes import kubernetes
from choreo.cli.programmes.asyncapi import asyncapi_of
from choreo.cli.programmes.deployed import deployed
from choreo.errors import Unavailable
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.schema import path_of, store

FOLDER = Path("docs", "api")
"""Of the checkout in which it is run."""
STALE = 1


def docs(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")] = False,
) -> None:
    """Write each service's API documents into docs/api, and its part of the compose file, of deploy/ and of
    the tables in docs.

    From the code: nothing is started.
    """
    settings, told = _nowhere(), all_disagreements()
    for sentence in told:
        print(sentence)
    if told:
        raise typer.Exit(STALE)
    wanted = {FOLDER / name: text for name, text in documents().items()}
    own = [service_of(name, settings) for name in _own()]
    wanted |= deployed(Path(), own)
    if kubernetes.FOLDER.is_dir():
        wanted |= kubernetes.manifests(own, version("choreo-kafka"))
    stale = {path: text for path, text in wanted.items() if text != _stored(path)}
    new = [] if check else [path_of(fact).name for fact in FACT_OF_TYPE.values() if store(fact)]
    for name in new:
        print(f"{name} is new")
    for path, text in stale.items():
        if check:
            print(f"{path} is not what the code says: run `make docs`, and look at the difference")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"{path} is written")
    if check and stale:
        raise typer.Exit(STALE)


def documents() -> dict[str, str]:
    """By file name. The same code gives the same text."""
    settings, told = _nowhere(), examples()
    found: dict[str, Any] = {}
    for service in _own():
        _, app = build_of(service)(settings)
        url = f"http://127.0.0.1:{port_of(service, settings)}"
        servers = [{"url": url, "description": "As `choreo up` starts it."}]
        found[f"{service}.openapi.json"] = app.openapi() | {"servers": servers}
        found[f"{service}.asyncapi.json"] = asyncapi_of(
            service_of(service, settings), settings.partitions, told
        )
    return {name: json.dumps(document, indent=2) + "\n" for name, document in found.items()}


def _own() -> list[str]:
    """The services of this checkout: others may be installed beside them, and have documents of their own."""
    own = [name for name in service_names() if name in entry_points_of(Path("pyproject.toml"))]
    if not own:
        raise Unavailable("No pyproject.toml here names a service: run this in the folder of one that does.")
    return own


def _stored(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _nowhere() -> Settings:
    """The defaults, whatever the environment says, and parts that nobody connects to."""
    return Settings.model_construct(
        database_urls=dict.fromkeys(service_names(), "postgresql://nowhere"),
        kafka_usernames={},
        kafka_passwords={},
        kafka_bootstrap_servers="nowhere:9092",
        smtp_url="smtp://nowhere:25",
    )
