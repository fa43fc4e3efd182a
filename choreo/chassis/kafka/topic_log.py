"""The log as it is in Kafka, held against what a service has read of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka.errors import UnknownTopicOrPartitionError

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.aiokafka_internals import FetchedRecord
from choreo.chassis.kafka.cluster import EARLIEST, LATEST, Cluster
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
    stable: int
    """Where the first transaction begins that is still open: nobody reads further. Else as `latest`."""
    leader_epoch: int


async def describe(
    access: KafkaAccess, topics: Sequence[str], needed: Collection[Grant] = ()
) -> Mapping[TopicPartition, PartitionLog]:
    """Every partition of these topics, by connections that are gone afterwards.

    Raises KafkaError, `LogMismatch` where a topic is gone, `AccessDenied` where a needed grant is.
    """
    async with asking(access) as cluster:
        await require(cluster, access, needed)
        return await described(cluster, topics)


async def described(cluster: Cluster, topics: Sequence[str]) -> Mapping[TopicPartition, PartitionLog]:
    """As `describe`, by connections that are there."""
    metadata = await cluster.metadata(topics)
    places, epochs = {}, {}
    for name in topics:
        try:
            topic = metadata.topic(name)
        except UnknownTopicOrPartitionError:
            raise LogMismatch(
                f"the topic {name} is not there: restore it, or make it if there never was one"
            ) from None
        for number in topic.leaders:
            places[name, number] = Position(name, number, 0, topic.id, metadata.cluster_id)
            epochs[name, number] = topic.leader_epochs[number]
    earliest, latest = await cluster.offsets(places, EARLIEST), await cluster.offsets(places, LATEST)
    stable = await cluster.offsets(places, LATEST, committed=True)
    return {
        place: PartitionLog(begin, earliest[place][0], latest[place][0], stable[place][0], epochs[place])
        for place, begin in places.items()
    }


async def refuse_compacted(cluster: Cluster, topics: Sequence[str]) -> None:
    """Raises `LogMismatch` where Kafka keeps only the last record of a key."""
    for topic, policy in (await cluster.cleanup_policies(topics)).items():
        if "compact" in policy:
            raise LogMismatch(
                f"{topic} has cleanup.policy={policy}: Kafka deletes all but a user's last fact. "
                "Set cleanup.policy=delete on it, and see with `choreo doctor` whether anything is gone"
            )


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


async def compare_last_read(
    service: str,
    cluster: Cluster,
    there: Mapping[TopicPartition, PartitionLog],
    known: Collection[Position],
) -> None:
    """Raises `LogMismatch` where another record has the offset of the last one that was read, or a marker
    that was read behind it is of another leader.

    So it is in a log that was cut and has grown again: it is as long as it should be, and what was
    acknowledged after the cut lies below the position. What the log has forgotten cannot be compared, nor a
    position that somebody has set back.
    """
    last_read, ends = {}, {}
    for position in known:
        begin = there[position.place].earliest if position.place in there else position.next_offset
        if begin <= position.last_offset < position.next_offset:
            last_read[position] = position.last_offset
        end = position.next_offset - 1
        if begin <= end != position.last_offset and position.expected.leader_epoch >= 0:
            ends[position] = end
    for wanted in (last_read, ends):
        found = await cluster.records({one.place: offset for one, offset in wanted.items()}) if wanted else {}
        for position, offset in wanted.items():
            if not _is_as_read(position, offset, found.get(position.place)):
                raise LogMismatch(
                    f"{position.topic}[{position.partition}] does not have at offset {offset} what {service} "
                    "has read there: the log was cut and has grown again. Restore the old one, or rebuild "
                    "the service's database from this one"
                )


def _is_as_read(position: Position, offset: int, found: FetchedRecord | None) -> bool:
    if offset == position.last_offset:
        read = position.last_digest, position.leader_epoch
        return found is not None and (found.record.digest, found.leader_epoch) == read
    return found is None or found.leader_epoch == position.end_epoch  # a mirror may leave out a marker
