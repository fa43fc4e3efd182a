"""Every setting a process reads from its environment, in one place."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from choreo.chassis.http.client_address import networks
from choreo.chassis.kafka.access import KafkaAccess

OBSERVER = "observer"
"""Who may see everything in Kafka and change nothing."""


def _plain(name: str) -> AliasChoices:
    """A variable without the CHOREO_ prefix, because other tools know it by this name."""
    return AliasChoices(name)


def _by_service(variable: str) -> dict[str, str]:
    """What is in `USER_DATABASE_URL`, `ORDER_DATABASE_URL` and so on, whichever services there are."""
    ending = f"_{variable}"
    return {
        name.removesuffix(ending).lower(): value
        for name, value in os.environ.items()
        if name.endswith(ending) and value
    }


class Settings(BaseSettings):
    """One installation. A field `port_base` is read from `CHOREO_PORT_BASE`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="CHOREO_", env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    port_base: int = Field(8000, ge=1024, le=60000)
    home: Path | None = None
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$")
    decide_within: float = Field(30, ge=0.01, description="seconds an order may stay undecided")
    partitions: int = Field(12, ge=1, le=1000, description="per topic; fixed once topics exist")
    topic_prefix: str = Field("", description="keeps tests on one broker apart")
    kafka_bootstrap_servers: str | None = Field(None, validation_alias=_plain("KAFKA_BOOTSTRAP_SERVERS"))
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", validation_alias=_plain("KAFKA_SECURITY_PROTOCOL")
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", validation_alias=_plain("KAFKA_SASL_MECHANISM")
    )
    kafka_ca_file: Path | None = Field(None, validation_alias=_plain("KAFKA_CA_FILE"))
    kafka_username: str | None = Field(None, validation_alias=_plain("KAFKA_USERNAME"))
    kafka_password: SecretStr | None = Field(None, validation_alias=_plain("KAFKA_PASSWORD"))
    kafka_usernames: Mapping[str, str] = Field(
        default_factory=partial(_by_service, "KAFKA_USERNAME"), description="by service, and the observer's"
    )
    kafka_passwords: Mapping[str, SecretStr] = Field(
        default_factory=lambda: {who: SecretStr(told) for who, told in _by_service("KAFKA_PASSWORD").items()}
    )
    smtp_url: str | None = Field(None, validation_alias=_plain("SMTP_URL"))
    database_urls: Mapping[str, str] = Field(
        default_factory=partial(_by_service, "DATABASE_URL"), description="by service"
    )
    hosts: str = Field("localhost,127.0.0.1,[::1]", description="names the services answer to")
    connections: int = Field(4096, ge=10, description="to one process; beyond, an idle one is closed")
    trusted_proxies: Annotated[str, AfterValidator(networks)] = Field(
        "", description="whose X-Forwarded-For or Forwarded is believed, as 10.0.0.0/8,127.0.0.1"
    )
    http_host: str = Field("127.0.0.1", description="where a service listens that was handed no socket")
    http_fd: int | None = Field(None, description="a listening socket handed over by the supervisor")
    own_http_fd: int | None = Field(None, description="the same, for this process's own port")
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    def kafka_access(self, who: str | None = None) -> KafkaAccess:
        """A service's, or the observer's; without a name of its own, or for nobody, the common one."""
        username, password = self.kafka_usernames.get(who or ""), self.kafka_passwords.get(who or "")
        if username is None:
            username, password = self.kafka_username, self.kafka_password
        return KafkaAccess(
            self.kafka_bootstrap_servers or "",
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism,
            username or "",
            password.get_secret_value() if password else "",
            self.kafka_ca_file,
        )
