"""What a real Kafka says of itself is read rightly, whatever state it is in."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerNotAvailableError, KafkaConnectionError, KafkaError
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.cluster import LATEST, Cluster
from choreo.chassis.kafka.topic_log import LogMismatch, describe
from choreo.chassis.settings import OBSERVER, Settings
from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.ports import free_ports
from choreo.operations.principals import topic_names
from choreo.operations.reading.checkup import examine
from choreo.operations.reading.installation import Installation
from tests.services import SERVICES
from tests.shop import PARTITIONS, Shop, eventually

MORE = [f"more-{number}" for number in range(12)]
"""Topics enough that some id is spelled differently in the two ways there are to write base64."""


@pytest.mark.parametrize("who", [*SERVICES, OBSERVER, None])
async def test_ids_and_operations_are_those_that_librdkafka_reads(closed_shop: Shop, who: str | None) -> None:
    access = closed_shop.kafka.user(who) if who else closed_shop.kafka.admin
    await asyncio.to_thread(declare_topics, closed_shop.kafka.admin, MORE, 1)
    topics = [*topic_names(closed_shop.settings), "nowhere", *MORE]
    groups = [f"{closed_shop.settings.topic_prefix}{service}-service" for service in SERVICES]

    async def both() -> list[dict[str, Any]]:
        return [await ours(access, topics, groups), await asyncio.to_thread(theirs, access, topics, groups)]

    await eventually(both, settled)


def settled(answers: list[dict[str, Any]]) -> bool:
    """Both say the same. An ACL that was just made takes a moment, and so does a group's coordinator."""
    return answers[0] == answers[1] and not any(answer in (14, 15, 16) for answer in answers[0].values())


async def ours(access: KafkaAccess, topics: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    async with Cluster(access) as cluster:
        metadata = await cluster.metadata(topics)
        for name in topics:
            try:
                topic = metadata.topic(name)
                told[name] = topic.id, metadata.cluster_id, topic.leaders, topic.operations
            except KafkaError as error:
                told[name] = error.errno
        for name in groups:
            try:
                told[name] = (await cluster.group(name)).operations
            except KafkaError as error:
                told[name] = error.errno
    return told


def theirs(access: KafkaAccess, topics: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    admin = AdminClient(access.confluent())
    cluster_id = admin.list_topics(timeout=20).cluster_id
    told: dict[str, Any] = {}
    for name, topic in admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True
    ).items():
        try:
            found = topic.result()
            leaders = {partition.id: partition.leader.id for partition in found.partitions}
            told[name] = str(found.topic_id), cluster_id, leaders, names(found.authorized_operations)
        except KafkaException as error:
            told[name] = error.args[0].code()
    for name in groups:
        (group,) = admin.describe_consumer_groups([name], include_authorized_operations=True).values()
        try:
            told[name] = names(group.result().authorized_operations)
        except KafkaException as error:
            told[name] = error.args[0].code()
    return told


def names(operations: Any) -> set[str]:
    return {operation.name for operation in operations}


async def test_offsets_are_found_by_time(closed_shop: Shop) -> None:
    topic = topic_names(closed_shop.settings)[0]
    async with AIOKafkaProducer(**closed_shop.kafka.admin.aiokafka()) as producer:
        first = await producer.send_and_wait(topic, b"a record", partition=0)
        last = await producer.send_and_wait(topic, b"a record", partition=0)
    written, empty = (topic, 0), (topic, PARTITIONS - 1)
    async with Cluster(closed_shop.kafka.admin) as cluster:
        found = await cluster.offsets([written, empty], 0)
        assert found == {written: (0, first.timestamp), empty: (-1, -1)}
        assert await cluster.offsets([written], last.timestamp + 1) == {written: (-1, -1)}
        assert await cluster.offsets([written, empty], LATEST) == {written: (2, -1), empty: (0, -1)}


@pytest.fixture(scope="module")
def taken_for_dead() -> Iterator[Kafka]:
    """A Kafka whose controller hears of its only broker once, and once an hour."""
    with tempfile.TemporaryDirectory(prefix="choreo-") as directory:
        port, controller_port = free_ports(2)
        settings = {"broker.heartbeat.interval.ms": "3600000", "broker.session.timeout.ms": "1000"}
        kafka = Kafka(Path(directory), port, controller_port, cache=cache_directory(), settings=settings)
        try:
            kafka.start()
            kafka.wait_ready()
            yield kafka
        finally:
            kafka.kill()


async def test_a_cluster_that_names_no_broker_is_an_ordinary_error(taken_for_dead: Kafka) -> None:
    """For a look at the log, and for `choreo doctor`, which goes on to the databases."""

    async def says() -> type[Exception] | None:
        try:
            await describe(taken_for_dead.admin, ["nowhere"])
        except (KafkaError, LogMismatch) as error:
            return type(error)
        return None

    await eventually(says, lambda error: error is BrokerNotAvailableError)
    admin = taken_for_dead.admin
    settings = Settings(
        kafka_bootstrap_servers=admin.bootstrap,
        kafka_security_protocol=admin.protocol,
        kafka_sasl_mechanism=admin.mechanism,
        kafka_username=admin.username,
        kafka_password=SecretStr(admin.password),
    )
    urls = dict.fromkeys(SERVICES, "postgresql://nobody@127.0.0.1:1/nothing")
    found = [finding for finding in await examine(Installation(settings, urls)) if finding.check != "ready"]
    assert "names no broker" in found[0].says
    assert [finding.about for finding in found] == ["Kafka", *SERVICES]


async def test_a_cluster_that_does_not_answer_is_an_ordinary_error(
    taken_for_dead: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.chassis.kafka.cluster._TIMEOUT_MS", 100)
    taken_for_dead.pause()
    try:
        with pytest.raises(KafkaConnectionError, match=f"Kafka at {taken_for_dead.bootstrap}"):
            await describe(taken_for_dead.admin, ["nowhere"])
    finally:
        taken_for_dead.resume()
