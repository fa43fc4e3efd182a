"""Every setting a process reads from its environment, in one place."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from choreo.chassis.kafka.access import KafkaAccess

SERVICES = ("user", "order", "billing", "notification")
"""Their place in this tuple, counted from 1, is their port's offset from the port base."""

TOPICS = {service: f"{service}-events" for service in SERVICES}
"""By the service that alone writes them; without the installation's prefix."""

OBSERVER = "observer"
"""Who may see everything in Kafka and change nothing."""


def _plain(name: str) -> AliasChoices:
    """A variable without the CHOREO_ prefix, because other tools know it by this name."""
    return AliasChoices(name)


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
    user_kafka_username: str | None = Field(None, validation_alias=_plain("USER_KAFKA_USERNAME"))
    user_kafka_password: SecretStr | None = Field(None, validation_alias=_plain("USER_KAFKA_PASSWORD"))
    order_kafka_username: str | None = Field(None, validation_alias=_plain("ORDER_KAFKA_USERNAME"))
    order_kafka_password: SecretStr | None = Field(None, validation_alias=_plain("ORDER_KAFKA_PASSWORD"))
    billing_kafka_username: str | None = Field(None, validation_alias=_plain("BILLING_KAFKA_USERNAME"))
    billing_kafka_password: SecretStr | None = Field(None, validation_alias=_plain("BILLING_KAFKA_PASSWORD"))
    notification_kafka_username: str | None = Field(
        None, validation_alias=_plain("NOTIFICATION_KAFKA_USERNAME")
    )
    notification_kafka_password: SecretStr | None = Field(
        None, validation_alias=_plain("NOTIFICATION_KAFKA_PASSWORD")
    )
    observer_kafka_username: str | None = Field(None, validation_alias=_plain("OBSERVER_KAFKA_USERNAME"))
    observer_kafka_password: SecretStr | None = Field(
        None, validation_alias=_plain("OBSERVER_KAFKA_PASSWORD")
    )
    smtp_url: str | None = Field(None, validation_alias=_plain("SMTP_URL"))
    user_database_url: str | None = Field(None, validation_alias=_plain("USER_DATABASE_URL"))
    order_database_url: str | None = Field(None, validation_alias=_plain("ORDER_DATABASE_URL"))
    billing_database_url: str | None = Field(None, validation_alias=_plain("BILLING_DATABASE_URL"))
    notification_database_url: str | None = Field(None, validation_alias=_plain("NOTIFICATION_DATABASE_URL"))
    hosts: str = Field("localhost,127.0.0.1,[::1]", description="names the services answer to")
    connections: int = Field(4096, ge=10, description="to one process; beyond, an idle one is closed")
    http_host: str = Field("127.0.0.1", description="where a service listens that was handed no socket")
    http_fd: int | None = Field(None, description="a listening socket handed over by the supervisor")
    own_http_fd: int | None = Field(None, description="the same, for this process's own port")
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    def port_of(self, service: str) -> int:
        return self.port_base + 1 + SERVICES.index(service)

    def own_port_of(self, service: str, replica: int = 1) -> int:
        """Where the n-th process of a service, counted from 1, answers for itself."""
        return self.port_of(service) + 100 * replica

    def database_url_of(self, service: str) -> str | None:
        url: str | None = getattr(self, f"{service}_database_url")
        return url

    def kafka_access(self, who: str | None = None) -> KafkaAccess:
        """A service's, or the observer's; without a name of its own, or for nobody, the common one."""
        username: str | None = getattr(self, f"{who}_kafka_username") if who else None
        password: SecretStr | None = getattr(self, f"{who}_kafka_password") if who else None
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
