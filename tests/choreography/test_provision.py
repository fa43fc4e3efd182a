"""`choreo provision` on a cluster that is there already: makes what it may, and names what it may not."""

from uuid import uuid4

import pytest

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.grants import observing
from choreo.chassis.settings import OBSERVER, Settings
from choreo.cli.running.provision import provision
from choreo.embedded.kafka import Kafka
from choreo.errors import Unavailable
from choreo.operations.principals import topic_names
from tests.services import SERVICES


def test_topics_and_grants_are_made_checked_or_named(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = f"t{uuid4().hex[:10]}-"
    monkeypatch.setenv("CHOREO_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("CHOREO_PARTITIONS", "1")
    for who in (*SERVICES, OBSERVER):
        monkeypatch.setenv(f"{who.upper()}_KAFKA_USERNAME", who)

    def provided(access: KafkaAccess) -> list[str]:
        for name, value in access.environment().items():
            monkeypatch.setenv(name, value)
        provision(replication_factor=1)
        return capsys.readouterr().out.splitlines()

    with pytest.raises(Unavailable, match=r"uthorization failed.* that User:billing may create"):
        provided(kafka.user("billing"))

    topics = topic_names(Settings())
    declare_topics(kafka.admin, topics, 1)
    kafka.admit({OBSERVER: observing(topics)})
    needed = rf"Have these made: .*User:billing .*READ on group {prefix}billing-service"
    with pytest.raises(Unavailable, match=needed):
        provided(kafka.user(OBSERVER))

    told = provided(kafka.admin)
    assert f"{topics[0]}: as it must be" in told
    assert f"User:billing READ on group {prefix}billing-service: made" in told
    assert f"User:observer READ on topic {topics[0]}: as it must be" in told
    assert all(line.endswith("as it must be") for line in provided(kafka.user(OBSERVER)))
