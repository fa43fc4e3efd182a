"""How a client gets into Kafka is told by settings, and the password is told to nobody else."""

import pytest

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.settings import Settings

SECURED = {
    "KAFKA_BOOTSTRAP_SERVERS": "one:9092,two:9092",
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_USERNAME": "everybody",
    "KAFKA_PASSWORD": "open sesame",
    "BILLING_KAFKA_USERNAME": "till",
    "BILLING_KAFKA_PASSWORD": "hush",
    "BILLING_KAFKA_CERTIFICATE_FILE": "/run/till.pem",
    "KAFKA_CERTIFICATE_FILE": "/run/everybody.pem",
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in SECURED.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_a_service_has_its_own_name_or_the_common_one(settings: Settings) -> None:
    own, common = settings.kafka_access("billing"), settings.kafka_access("order")
    assert (own.username, own.password, own.principal) == ("till", "hush", "User:till")
    assert (common.username, common.password) == ("everybody", "open sesame")
    assert [str(one.certificate_file) for one in (own, common)] == ["/run/till.pem", "/run/everybody.pem"]
    assert common == settings.kafka_access()


def test_a_cluster_without_names_needs_nothing_but_its_address() -> None:
    plain = Settings(kafka_bootstrap_servers="here:9092").kafka_access("user")
    assert plain.aiokafka() == {"bootstrap_servers": "here:9092", "security_protocol": "PLAINTEXT"}
    assert plain.faust() == {}
    assert plain.principal == "User:ANONYMOUS"


def test_what_is_handed_on_is_the_same_access(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    access = settings.kafka_access("billing")
    assert KafkaAccess.from_told(access.told()) == access
    for name in SECURED:
        monkeypatch.delenv(name)
    for name, value in access.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings().kafka_access("billing") == access


def test_a_password_is_not_shown(settings: Settings) -> None:
    shown = f"{settings!r} {settings} {settings.kafka_access('billing')!r} {settings.kafka_access()}"
    assert "open sesame" not in shown
    assert "hush" not in shown
