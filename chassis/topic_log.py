"""The log as it is in Kafka, held against what a service has read of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition

from chassis.grants import Grant, asking, require
from chassis.kafka_access import KafkaAccess
from chassis.positions import Place, Position

EARLIEST, LATEST = -2, -1
"""Of a partition, instead of a time."""
_PATIENCE = 5.0


class LogMismatch(Exception):
    """What this service has read is not the log that is there. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class PartitionLog:
    begin: Position
    """Where somebody who never read it starts; with the ids of topic and cluster."""
    earliest: int
    latest: int
    """The offset the next record will get."""


def describe(
    access: KafkaAccess, topics: Sequence[str], needed: Collection[Grant] = ()
) -> Mapping[Place, PartitionLog]:
    """Every partition of these topics, by a client that is gone afterwards. Blocks.

    Raises KafkaException, `LogMismatch` where a topic is gone, `AccessDenied` where a needed grant is.
    """
    with asking(access) as admin:
        # First a question that can be refused: where Kafka names no broker, as one that is alone does while
        # its controller takes it for dead, the admin client's answers (librdkafka 2.16) abort the process.
        cluster_id = str(admin.list_topics(timeout=_PATIENCE).cluster_id)
        require(admin, access, needed)
        described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=_PATIENCE)
        places = {}
        for topic, future in described.items():
            description = _described(topic, future)
            for info in description.partitions:
                places[topic, info.id] = Position(topic, info.id, 0, str(description.topic_id), cluster_id)
    earliest, latest = offsets(access, places, EARLIEST), offsets(access, places, LATEST)
    return {place: PartitionLog(begin, earliest[place], latest[place]) for place, begin in places.items()}


def offsets(access: KafkaAccess, places: Iterable[Place], when: int) -> dict[Place, int]:
    """Of the first record that is as young as `when` (milliseconds since the epoch), or younger; -1 where
    there is none. Blocks; raises KafkaException.

    Asked by a consumer that joins no group: the admin client's own question (librdkafka 2.16, ListOffsets)
    aborts the whole process where the leader of a partition changes under it.
    """
    consumer = Consumer(access.confluent() | {"group.id": "nobody", "enable.auto.commit": False})
    try:
        asked = [TopicPartition(topic, partition, when) for topic, partition in places]
        found = consumer.offsets_for_times(asked, timeout=_PATIENCE) if asked else []
    finally:
        consumer.close()
    for at in found:
        if at.error:
            raise KafkaException(at.error)
    return {(at.topic, at.partition): at.offset for at in found}


def _described(topic: str, future: "Future[Any]") -> Any:
    try:
        return future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise LogMismatch(
            f"the topic {topic} is not there: restore it, or make it if there never was one"
        ) from None


def compare(service: str, there: PartitionLog, known: Position | None) -> None:
    """Raises `LogMismatch` where the log is another one, or lacks what has not been read."""
    place = f"{there.begin.topic}[{there.begin.partition}]"
    next_offset = known.next_offset if known else 0
    if known and (known.topic_id, known.cluster_id) != (there.begin.topic_id, there.begin.cluster_id):
        raise LogMismatch(
            f"{place} is not the log that {service} has read: its topic or cluster was made anew. "
            "Restore the old one, or rebuild the service's database from this one"
        )
    if next_offset < there.earliest:
        raise LogMismatch(
            f"{place} begins at offset {there.earliest}, and {service} has read only up to {next_offset}: "
            "what lies between is lost. Restore the topic, or rebuild the service's database from the rest"
        )
    if next_offset > there.latest:
        raise LogMismatch(
            f"{place} ends at offset {there.latest}, and {service} has read up to {next_offset}: "
            "the log was cut or restored from an older copy. Restore the newer one"
        )
