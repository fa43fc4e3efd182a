"""The system a tool works on: the one that runs from this home, or the parts the environment names."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import make_engine
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.registry import service_names, service_of
from choreo.chassis.service import Service
from choreo.chassis.settings import OBSERVER, Settings, unusable
from choreo.embedded.home import Home, usual_homes
from choreo.errors import Incomplete, Unavailable
from choreo.styles.composition import COLLABORATION, has_kafka


@dataclass(frozen=True)
class Installation:
    settings: Settings
    """As the running services have them."""
    database_urls: Mapping[str, str]
    """By service, as its runtime role."""
    own_ports: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Where each process of a service answers for itself; unknown where `choreo up` does not run them."""
    owner_urls: Mapping[str, str] = field(default_factory=dict)
    """By service, as the owner of its tables, where that is somebody else."""

    style: str = COLLABORATION
    runtime_roles: Mapping[str, str] = field(default_factory=dict)
    """By service its role, where `database_urls` are not of that, but of who only looks."""

    @property
    def kafka(self) -> KafkaAccess:
        """The observer's. Raises `Incomplete` where this style has no Kafka."""
        if not has_kafka(self.style):
            raise Incomplete(
                f"Style {self.style} has no Kafka and keeps no events: journals say which facts were heard, "
                "and not what was in them. `choreo trace` tells what they say."
            )
        return self.settings.kafka_access(OBSERVER)

    def service(self, name: str) -> Service[Any]:
        """As today's code has it."""
        return service_of(name, self.settings)

    def partition_of(self, key: str) -> int:
        """Tells in which partition of its service's topic the facts of a key lie."""
        return partition_of(key, self.settings.partitions)

    @asynccontextmanager
    async def engines(self) -> AsyncIterator[dict[str, AsyncEngine]]:
        """One for each service's database; opened when used."""
        engines = {
            name: make_engine(url, pool_size=2, serving=False) for name, url in self.database_urls.items()
        }
        try:
            yield engines
        finally:
            for engine in engines.values():
                await engine.dispose()


def observed(here: Installation) -> Installation:
    """The same with the observer's credential alone. What the environment names is as it is named there.

    Raises `Unavailable` where the running system has databases of somebody else's, who knows no observer.
    """
    facts = running_system(read_settings())
    if facts is None:
        return here
    databases = json.loads(Path(facts["observer"]).read_text())["databases"]
    if set(databases) != set(here.database_urls):
        raise Unavailable(
            "The databases of this system are none of its own, so no observer is known there: name a role "
            "that may read in every ..._DATABASE_URL, with KAFKA_BOOTSTRAP_SERVERS and another CHOREO_HOME."
        )
    roles = {name: str(conninfo_to_dict(url)["user"]) for name, url in here.database_urls.items()}
    urls = {name: databases[name] for name in here.database_urls}
    return replace(here, database_urls=urls, owner_urls={}, runtime_roles=roles)


def running_system(settings: Settings) -> dict[str, Any] | None:
    """What run.json says of the system that runs here. Raises `Unavailable` where it lacks a service."""
    facts = _running_from(Home(settings).path)
    if facts and (late := [name for name in service_names() if name not in facts["ports"]]):
        raise Unavailable(
            f"The system that runs was started before there was {' and '.join(late)}: stop it, and start it "
            "again with `choreo up`."
        )
    return facts


def _running_from(home: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads((home / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts if psutil.pid_exists(facts["pid"]) else None


def observer_access(facts: Mapping[str, Any]) -> KafkaAccess:
    """To Kafka; `facts` are those of run.json."""
    return KafkaAccess.from_told(json.loads(Path(facts["observer"]).read_text())["kafka"])


def find_observed_databases() -> dict[str, str]:
    """Returns the URLs of the observer, by service; of databases that are not ours, as they were given."""
    installation, facts = find_installation(), running_system(read_settings())
    observed = json.loads(Path(facts["observer"]).read_text())["databases"] if facts else {}
    return {**installation.database_urls, **observed}


def read_settings() -> Settings:
    """From the environment; Unavailable, naming the variable, if one is broken."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0])
        variable = field if field.isupper() else f"CHOREO_{field.upper()}"
        raise unusable(variable, first["msg"]) from None


def find_installation() -> Installation:
    """Unavailable, saying what to do, where there is none."""
    settings = read_settings()
    facts = running_system(settings)
    if facts is not None:
        kafka = observer_access(facts) if has_kafka(facts["style"]) else KafkaAccess("")
        passwords = {**settings.kafka_passwords, OBSERVER: SecretStr(kafka.password)}
        told = {
            "kafka_bootstrap_servers": kafka.bootstrap,
            "kafka_security_protocol": kafka.protocol,
            "kafka_sasl_mechanism": kafka.mechanism,
            "kafka_ca_file": kafka.ca_file,
            "kafka_certificate_file": kafka.certificate_file,
            "kafka_usernames": {**settings.kafka_usernames, **facts["kafka_users"]},
            "kafka_passwords": passwords,
            "topic_prefix": facts["topic_prefix"],
            "partitions": facts["partitions"],
            "own": facts["settings"],
        }
        return Installation(
            settings.model_copy(update=told),
            facts["runtime_urls"],
            facts["own_ports"],
            facts["owner_urls"],
            facts["style"],
        )
    urls = {name: url for name in service_names() if (url := settings.database_urls.get(name))}
    if settings.kafka_bootstrap_servers and len(urls) == len(service_names()):
        return Installation(settings, urls)
    found = [
        f"CHOREO_PORT_BASE={base} ({home})" for base, home in usual_homes().items() if _running_from(home)
    ]
    elsewhere = f" Found running: {', '.join(found)}." if found else ""
    raise Unavailable(
        f"No system runs from {Home(settings).path}: start it with `choreo up`, name its home with "
        "CHOREO_HOME or its CHOREO_PORT_BASE, or set KAFKA_BOOTSTRAP_SERVERS and every ..._DATABASE_URL."
        f"{elsewhere}"
    )
