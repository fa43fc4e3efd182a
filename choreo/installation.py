"""The system a tool works on: the one that runs from this home, or the parts the environment names."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import psutil
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.db import make_engine
from chassis.service import Service
from chassis.settings import SERVICES, Settings
from choreo.errors import read_settings
from embedded.home import Home
from embedded.process import Unavailable


@dataclass(frozen=True)
class Installation:
    settings: Settings
    """As the running services have them."""
    database_urls: Mapping[str, str]
    """By service, as its runtime role."""
    own_ports: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Where each process of a service answers for itself; unknown where `choreo up` does not run them."""

    @property
    def bootstrap(self) -> str:
        return self.settings.kafka_bootstrap_servers or ""

    def service(self, name: str) -> Service[Any]:
        """As today's code has it."""
        described: Service[Any] = import_module(f"{name}_service.app").service(self.settings)
        return described

    @asynccontextmanager
    async def engines(self) -> AsyncIterator[dict[str, AsyncEngine]]:
        """One for each service's database; opened when used."""
        engines = {name: make_engine(url, pool_size=2) for name, url in self.database_urls.items()}
        try:
            yield engines
        finally:
            for engine in engines.values():
                await engine.dispose()


def running_system(settings: Settings) -> dict[str, Any] | None:
    """What run.json says of the system that runs from this home."""
    try:
        facts: dict[str, Any] = json.loads((Home(settings).path / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts if psutil.pid_exists(facts["pid"]) else None


def find_installation() -> Installation:
    """Unavailable, saying what to do, where there is none."""
    settings = read_settings()
    facts = running_system(settings)
    if facts is not None:
        told = {
            "kafka_bootstrap_servers": facts["bootstrap"],
            "topic_prefix": facts["topic_prefix"],
            "partitions": facts["partitions"],
            "currency": facts["currency"],
        }
        return Installation(settings.model_copy(update=told), facts["runtime_urls"], facts["own_ports"])
    urls = {name: settings.database_url_of(name) for name in SERVICES}
    if settings.kafka_bootstrap_servers and all(urls.values()):
        return Installation(settings, {name: url for name, url in urls.items() if url})
    raise Unavailable(
        f"No system runs from {Home(settings).path}: start it with `choreo up`, name its home with "
        "CHOREO_HOME or its CHOREO_PORT_BASE, or set KAFKA_BOOTSTRAP_SERVERS and the four ..._DATABASE_URL."
    )
