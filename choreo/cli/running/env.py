"""`choreo env`: what a client of one's own needs to look at the running system."""

import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated

import typer

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.registry import port_of, service_names
from choreo.embedded.ports import LOOPBACK
from choreo.operations.reading.installation import (
    Installation,
    find_installation,
    find_observed_databases,
)
from choreo.styles.composition import has_kafka


class Format(StrEnum):
    SHELL = "shell"
    KCAT = "kcat"
    KAFBAT = "kafbat"


def env(
    format: Annotated[
        Format, typer.Option(help="Variables for a shell, kcat's configuration, or kafbat's --env-file.")
    ] = Format.SHELL,
) -> None:
    """Print how a client of your own gets in: Kafka and the databases as the observer, who changes nothing.

    It holds the observer's passwords. For one command: `env $(choreo env) python my_client.py`.
    """
    for line in _LINES[format](find_installation()):
        print(line)


def shell_lines(installation: Installation) -> Iterator[str]:
    variables = {
        f"{name.upper()}_URL": f"http://{LOOPBACK}:{port_of(name, installation.settings)}"
        for name in service_names()
    }
    variables |= {f"{name.upper()}_DATABASE_URL": url for name, url in find_observed_databases().items()}
    if has_kafka(installation.style):
        variables |= installation.kafka.environment()
    for name, value in variables.items():
        yield f"{name}={shlex.quote(value)}"


def kcat_lines(access: KafkaAccess) -> Iterator[str]:
    """As librdkafka calls them."""
    for name, value in access.confluent().items():
        if name not in ("log_level", "reconnect.backoff.max.ms"):
            yield f"{name}={value}"


def kafbat_lines(access: KafkaAccess) -> Iterator[str]:
    """As kafbat's Kafka UI, which gets Java's clients' properties, reads them of its environment."""
    yield "KAFKA_CLUSTERS_0_NAME=choreo"
    yield "KAFKA_CLUSTERS_0_READONLY=true"
    yield f"KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS={access.bootstrap}"
    yield f"KAFKA_CLUSTERS_0_PROPERTIES_SECURITY_PROTOCOL={access.protocol}"
    if access.protocol.startswith("SASL"):
        module = "plain.PlainLoginModule" if access.mechanism == "PLAIN" else "scram.ScramLoginModule"
        who = f'username="{access.username}" password="{access.password}"'
        yield f"KAFKA_CLUSTERS_0_PROPERTIES_SASL_MECHANISM={access.mechanism}"
        yield (
            "KAFKA_CLUSTERS_0_PROPERTIES_SASL_JAAS_CONFIG="
            f"org.apache.kafka.common.security.{module} required {who};"
        )


_LINES: dict[Format, Callable[[Installation], Iterator[str]]] = {
    Format.SHELL: shell_lines,
    Format.KCAT: lambda installation: kcat_lines(installation.kafka),
    Format.KAFBAT: lambda installation: kafbat_lines(installation.kafka),
}
