"""A service on a cluster that takes TLS and clients' certificates only, told by settings alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from choreo.chassis.kafka.access import KafkaAccess
from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.postgres import Postgres
from choreo.embedded.testing import running_with_users
from tests.shop import a_shop


@dataclass(frozen=True)
class Certificate:
    """Signed by itself, so that it is its own authority."""

    key_and_chain: Path
    authority: Path


def a_certificate(directory: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kafka")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, both = directory / "ca.pem", directory / "broker.pem"
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority.write_bytes(public)
    both.write_bytes(private + public)
    return Certificate(both, authority)


class TlsKafka(Kafka):
    certificate: Certificate

    @property
    def admin(self) -> KafkaAccess:
        return self._by_tls(super().admin)

    def user(self, name: str) -> KafkaAccess:
        return self._by_tls(super().user(name))

    def _by_tls(self, access: KafkaAccess) -> KafkaAccess:
        return KafkaAccess(
            access.bootstrap,
            "SASL_SSL",
            access.mechanism,
            access.username,
            access.password,
            self.certificate.authority,
            self.certificate.key_and_chain,
        )


@pytest.fixture
def tls_kafka(tmp_path: Path) -> Iterator[TlsKafka]:
    certificate = a_certificate(tmp_path)
    port, controller_port = free_ports(2)
    settings = {
        "listener.security.protocol.map": "CLIENTS:SASL_SSL,CONTROLLER:SASL_PLAINTEXT",
        "listener.name.clients.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate.key_and_chain),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificate.authority),
    }
    kafka = TlsKafka(tmp_path / "kafka", port, controller_port, cache=cache_directory(), settings=settings)
    kafka.certificate = certificate
    with running_with_users(kafka):
        yield kafka


async def test_the_services_meet_over_tls(
    tls_kafka: TlsKafka, postgres: Postgres, templates: dict[str, str], tmp_path: Path
) -> None:
    """Relay, consumer and the looks at the log: an account comes of a registration."""
    async with a_shop(tls_kafka, postgres, templates, tmp_path / "mail") as shop:
        over_tls = {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_ca_file": tls_kafka.certificate.authority,
            "kafka_certificate_file": tls_kafka.certificate.key_and_chain,
        }
        shop.settings = shop.settings.model_copy(update=over_tls)
        await shop.start("user", "billing")
        await shop.account_of(await shop.customer())
