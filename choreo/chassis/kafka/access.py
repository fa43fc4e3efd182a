"""How a client gets into Kafka: where, by which protocol, as whom. Knows no client library."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

_FILES = ("ssl.ca.location", "ssl.certificate.location")


@dataclass(frozen=True)
class KafkaAccess:
    """One principal's way in. Shown or logged it does not tell the password."""

    bootstrap: str
    protocol: str = "PLAINTEXT"
    """As Kafka calls them: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    """Whose certificates are believed; the system's authorities where it is None."""
    certificate_file: Path | None = None
    """With which this client is known: key and chain in one PEM, as Kafka's own PEM keystores have it."""

    @property
    def principal(self) -> str:
        """As Kafka's ACLs name this client."""
        return f"User:{self.username}" if self.username else "User:ANONYMOUS"

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """Made once: to read the system's authorities takes 20 ms, and the loop stands still meanwhile."""
        if not self.protocol.endswith("SSL"):
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.certificate_file:
            context.load_cert_chain(self.certificate_file)
        return context

    def aiokafka(self) -> dict[str, Any]:
        """The arguments of its clients."""
        access: dict[str, Any] = {"bootstrap_servers": self.bootstrap, "security_protocol": self.protocol}
        if context := self.ssl_context:
            access["ssl_context"] = context
        if self.protocol.startswith("SASL"):
            access["sasl_mechanism"] = self.mechanism
            access |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        return access

    def confluent(self) -> dict[str, Any]:
        """The configuration of confluent-kafka's clients, which are told to log nothing by themselves."""
        access: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.protocol,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
        if self.ca_file and self.protocol.endswith("SSL"):
            access["ssl.ca.location"] = str(self.ca_file)
        if self.certificate_file and self.protocol.endswith("SSL"):
            access |= dict.fromkeys(
                ("ssl.certificate.location", "ssl.key.location"), str(self.certificate_file)
            )
        if self.protocol.startswith("SASL"):
            access["sasl.mechanism"] = self.mechanism
            access |= {"sasl.username": self.username, "sasl.password": self.password}
        return access

    def faust(self) -> dict[str, Any]:
        """The arguments of Faust's `SASLCredentials`; empty where there is no name to be told."""
        if not self.protocol.startswith("SASL"):
            return {}
        credentials = {"mechanism": self.mechanism, "username": self.username, "password": self.password}
        return credentials | {"ssl_context": self.ssl_context}

    def environment(self) -> dict[str, str]:
        """The settings that give a process of ours this access, and no other."""
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_SECURITY_PROTOCOL": self.protocol,
            "KAFKA_SASL_MECHANISM": self.mechanism,
            "KAFKA_USERNAME": self.username,
            "KAFKA_PASSWORD": self.password,
            "KAFKA_CA_FILE": str(self.ca_file or ""),
            "KAFKA_CERTIFICATE_FILE": str(self.certificate_file or ""),
        }
        return {name: value for name, value in settings.items() if value}

    def told(self) -> dict[str, str]:
        """For a file that is readable by its owner only. By the names Kafka's own tools have for them."""
        told = {
            "bootstrap": self.bootstrap,
            "security.protocol": self.protocol,
            "sasl.mechanism": self.mechanism,
            "username": self.username,
            "password": self.password,
            "ssl.ca.location": str(self.ca_file or ""),
            "ssl.certificate.location": str(self.certificate_file or ""),
        }
        return {name: value for name, value in told.items() if value}

    @classmethod
    def from_told(cls, told: Mapping[str, str]) -> Self:
        return cls(
            told["bootstrap"],
            told["security.protocol"],
            told["sasl.mechanism"],
            told.get("username", ""),
            told.get("password", ""),
            *(Path(told[name]) if name in told else None for name in _FILES),
        )
