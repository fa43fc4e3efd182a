"""The log as it is in Kafka, held against what a service has read of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka.errors import UnknownTopicOrPartitionError

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import EARLIEST, LATEST
from choreo.chassis.kafka.grants import Grant, asking, require
from choreo.chassis.transaction.positions import Position, TopicPartition


class LogMismatch(Exception):
    """What this service has read is not the log that is there. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class PartitionLog:
    begin: Position
    """Where somebody who never read it starts; with the ids of topic and cluster."""
    earliest: int
    latest: int
    """The offset the next record will get."""


async def describe(
    access: KafkaAccess, topics: Sequence[str], needed: Collection[Grant] = ()
) -> Mapping[TopicPartition, PartitionLog]:
    """Every partition of these topics, by connections that are gone afterwards.

    Raises KafkaError, `LogMismatch` where a topic is gone, `AccessDenied` where a needed grant is.
    """
    async with asking(access) as cluster:
        await require(cluster, access, needed)
        metadata = await cluster.metadata(topics)
        places = {}
        for name in topics:
            try:
                topic = metadata.topic(name)
            except UnknownTopicOrPartitionError:
                raise LogMismatch(
                    f"the topic {name} is not there: restore it, or make it if there never was one"
                ) from None
            for number in topic.leaders:
                places[name, number] = Position(name, number, 0, topic.id, metadata.cluster_id)
        earliest, latest = await cluster.offsets(places, EARLIEST), await cluster.offsets(places, LATEST)
    return {
        place: PartitionLog(begin, earliest[place][0], latest[place][0]) for place, begin in places.items()
    }


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
