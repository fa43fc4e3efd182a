"""Every setting a process reads from its environment, in one place."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from choreo.chassis.environment import CHOSEN_NOW
from choreo.chassis.http.client_address import networks
from choreo.chassis.kafka.access import KafkaAccess
from choreo.errors import Unavailable

OBSERVER = "observer"
"""Who may see everything in Kafka and change nothing."""


class OwnSettings(BaseModel):
    """A service's own. `decide_within` of the order service is read from `ORDER_DECIDE_WITHIN`, or from
    `CHOREO_DECIDE_WITHIN`, which is for every service that has such a setting.

    What decisions depend on stands in every recording, so it is no secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


Own = TypeVar("Own", bound=OwnSettings)


def unusable(variable: str, why: str) -> Unavailable:
    return Unavailable(f"{variable} is not usable: {why[0].lower()}{why[1:]}; correct it or unset it.")


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


def _own_variables(service: str, model: type[OwnSettings]) -> dict[str, str]:
    """The service's own name wins over what is for all."""
    fields = {f"{who}_{field}".upper(): field for who in ("choreo", service) for field in model.model_fields}
    return {field: os.environ[name] for name, field in fields.items() if os.environ.get(name)}


class Settings(BaseSettings):
    """One installation. A field `port_base` is read from `CHOREO_PORT_BASE`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="CHOREO_", env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    port_base: int = Field(8000, ge=1024, le=60000)
    home: Path | None = None
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
    kafka_certificate_file: Path | None = Field(None, validation_alias=_plain("KAFKA_CERTIFICATE_FILE"))
    kafka_username: str | None = Field(None, validation_alias=_plain("KAFKA_USERNAME"))
    kafka_password: SecretStr | None = Field(None, validation_alias=_plain("KAFKA_PASSWORD"))
    kafka_usernames: Mapping[str, str] = Field(
        default_factory=partial(_by_service, "KAFKA_USERNAME"), description="by service, and the observer's"
    )
    kafka_passwords: Mapping[str, SecretStr] = Field(
        default_factory=lambda: {who: SecretStr(told) for who, told in _by_service("KAFKA_PASSWORD").items()}
    )
    kafka_certificate_files: Mapping[str, Path] = Field(
        default_factory=lambda: {
            who: Path(told) for who, told in _by_service("KAFKA_CERTIFICATE_FILE").items()
        }
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
    instance: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._:-]{1,100}$",
        description="one process of a service at a time has this name; otherwise its machine's and its port",
    )
    own: Mapping[str, Mapping[str, Any]] = Field(
        {}, description="by service: its own settings, where the environment does not say them"
    )
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    def own_of(self, service: str, model: type[Own]) -> Own:
        """A service's own settings. Raises `Unavailable`, naming the variable, where one cannot be used."""
        told = self.own.get(service)
        try:
            if told is None:
                return model.model_validate(_own_variables(service, model), context=CHOSEN_NOW)
            return model.model_validate(told)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            variables = [f"{who}_{first['loc'][0]}".upper() for who in (service, "choreo")]
            raise unusable(next(filter(os.environ.get, variables), variables[0]), first["msg"]) from None

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
            self.kafka_certificate_files.get(who or "", self.kafka_certificate_file),
        )
