from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from confluent_kafka.cimpl import NewTopic

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.embedded import kafka_runtime
from choreo.embedded.kafka import Kafka
from choreo.embedded.ports import require_free
from choreo.embedded.testing import kafka_for_tests
from choreo.errors import Unavailable


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    """One of its own, for it is killed here."""
    with kafka_for_tests() as kafka:
        yield kafka


def test_acknowledged_records_outlive_sigkill(broker: Kafka) -> None:
    declare_topics(broker.admin, ["kept"], partitions=1)
    cluster = _cluster_id(broker)
    producer = Producer(broker.admin.confluent() | {"enable.idempotence": True})
    producer.produce("kept", b"a fact")
    assert producer.flush(30) == 0

    broker.kill()
    broker.start()
    broker.wait_ready()

    assert _first_record(broker, "kept") == b"a fact"
    assert _cluster_id(broker) == cluster


def test_stops_and_starts_again(broker: Kafka) -> None:
    broker.stop()
    assert broker.exit_code is not None
    require_free(broker.port, "nobody")
    assert not broker.ready()
    broker.start()
    broker.wait_ready()


def test_a_paused_broker_is_not_ready(broker: Kafka) -> None:
    broker.pause()
    assert not broker.ready()
    broker.resume()
    broker.wait_ready()


def test_topics_are_declared_once_and_for_ever(broker: Kafka) -> None:
    assert declare_topics(broker.admin, ["one", "two"], partitions=3) == ["one", "two"]
    assert declare_topics(broker.admin, ["one", "two"], partitions=3) == []


def test_a_topic_with_other_partitions_is_refused(broker: Kafka) -> None:
    declare_topics(broker.admin, ["narrow"], partitions=1)
    with pytest.raises(Unavailable, match=r"narrow has 1 partitions .* set CHOREO_PARTITIONS=1"):
        declare_topics(broker.admin, ["narrow"], partitions=12)


def test_a_topic_that_grew_is_used_as_before_until_its_keys_have_moved(broker: Kafka) -> None:
    declare_topics(broker.admin, ["grown"], partitions=2)
    admin = AdminClient(broker.admin.confluent())
    admin.create_partitions([NewPartitions("grown", 3)])["grown"].result(30)
    assert declare_topics(broker.admin, ["grown"], partitions=2) == []
    producer = Producer(broker.admin.confluent())
    producer.produce("grown", b"a fact", partition=2)
    assert producer.flush(30) == 0
    with pytest.raises(Unavailable, match=r"grown has 3 partitions .* set CHOREO_PARTITIONS=3"):
        declare_topics(broker.admin, ["grown"], partitions=2)


def test_a_topic_that_forgets_is_refused(broker: Kafka) -> None:
    admin = AdminClient(broker.admin.confluent())
    admin.create_topics([NewTopic("short", 1, 1, config={"retention.ms": "1000"})])["short"].result(30)
    with pytest.raises(Unavailable, match=r"short has retention.ms=1000 .* set retention.ms=-1"):
        declare_topics(broker.admin, ["short"], partitions=1)


def test_a_taken_port_is_named(broker: Kafka, tmp_path: Path) -> None:
    second = Kafka(tmp_path, broker.port, cache=broker.cache)
    with pytest.raises(Unavailable, match=f"Port {broker.port}, needed for Kafka, .*CHOREO_PORT_BASE"):
        second.start()
    assert second.pid is None


def test_without_network_the_first_start_says_so_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(scratch: Path) -> Path:
        (scratch / "half a file").touch()
        raise ConnectionError

    monkeypatch.setattr(kafka_runtime, "_download", no_network)
    kafka = Kafka(tmp_path / "kafka", 1, 2, cache=tmp_path / "cache")
    with pytest.raises(Unavailable, match="connect to the network once"):
        kafka.start()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka.lock"]


@pytest.mark.parametrize("what", ["another byte", "one more", "one less"])
def test_a_jar_that_is_not_the_pinned_one_is_not_kept(
    what: str, broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (jars,) = [path for path in broker.cache.glob("jars-*") if path.is_dir()]

    def download(scratch: Path) -> Path:
        copy = scratch / "jars"
        copy.mkdir()
        for jar in jars.iterdir():
            (copy / jar.name).symlink_to(jar)
        first = min(copy.iterdir())
        if what == "one more":
            (copy / "more.jar").touch()
        else:
            first.unlink()
        if what == "another byte":
            first.write_bytes(jars.joinpath(first.name).read_bytes()[:-1] + b"x")
        return copy

    monkeypatch.setattr(kafka_runtime, "_download", download)
    with pytest.raises(Unavailable, match=r"jar is not what kafka_jars\.json says"):
        Kafka(tmp_path / "kafka", 1, 2, cache=tmp_path / "cache").start()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka.lock"]


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    with pytest.raises(Unavailable, match=f"Kafka is kept in {cache}, which cannot be used .* make it yours"):
        Kafka(tmp_path / "kafka", 1, 2, cache=cache).start()


def _cluster_id(kafka: Kafka) -> str:
    return str(AdminClient(kafka.admin.confluent()).list_topics(timeout=30).cluster_id)


def _first_record(kafka: Kafka, topic: str) -> bytes | None:
    consumer = Consumer(kafka.admin.confluent() | {"group.id": "reader", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        record = consumer.poll(30)
        assert record is not None and record.error() is None
        value: bytes | None = record.value()
        return value
    finally:
        consumer.close()
