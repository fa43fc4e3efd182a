"""Topics are declared once, from the catalogue of events, and never change their shape afterwards."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource, OffsetSpec, ResourceType
from confluent_kafka.cimpl import NewTopic

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.client import Admin, RequestFailed, administering
from choreo.chassis.kafka.grants import AccessDenied
from choreo.errors import Unavailable

T = TypeVar("T")

FOREVER = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}

_TIMEOUT = 15.0


def declare_topics(
    access: KafkaAccess, topics: Iterable[str], partitions: int, replication_factor: int = 1
) -> list[str]:
    """Make the missing ones, check the others; returns those made. Safe to repeat and to race.

    Unavailable if the cluster cannot be reached or refuses, or if keys would move (a topic has fewer
    partitions, or records in more) or records would be forgotten. A topic that has grown, and holds nothing
    in what it has grown by, is as good as it was.
    """
    wanted = list(topics)
    try:
        with administering(access) as admin:
            existing = _partition_counts(admin)
            missing = [topic for topic in wanted if topic not in existing]
            made = _make(
                admin, [NewTopic(t, partitions, replication_factor, config=FOREVER) for t in missing]
            )
            _check_partitions(admin, wanted, partitions)
            _check_retention(admin, wanted)
    except AccessDenied as denied:
        raise Unavailable(f"{denied}.") from denied
    except RequestFailed as error:
        raise Unavailable(
            f"Topics could not be made or checked on {access.bootstrap}: {error}. See that the "
            f"cluster runs and that {access.principal} may create and describe topics."
        ) from error
    return made


def _partition_counts(admin: Admin) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=_TIMEOUT).topics.items()}


def _make(admin: Admin, topics: list[NewTopic]) -> list[str]:
    """Again where there are fewer brokers than copies: of those just started some may be missing."""
    deadline = time.monotonic() + _TIMEOUT
    made: list[str] = []
    while topics:
        late = []
        for name, done in admin.create_topics(topics).items():
            try:
                done.result(_TIMEOUT)
                made.append(name)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.INVALID_REPLICATION_FACTOR and time.monotonic() < deadline:
                    late.append(name)
                elif code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        topics = [topic for topic in topics if topic.topic in late]
        time.sleep(0.1 if late else 0)
    return made


def _check_partitions(admin: Admin, topics: list[str], partitions: int) -> None:
    deadline = time.monotonic() + _TIMEOUT
    counts = _partition_counts(admin)
    while not all(counts.get(topic) for topic in topics) and time.monotonic() < deadline:
        time.sleep(0.02)  # made, but not yet known to every part of the broker
        counts = _partition_counts(admin)
    for topic in topics:
        found = counts.get(topic, 0)
        if found < partitions or _holds_records(admin, topic, range(partitions, found)):
            raise Unavailable(
                f"Topic {topic} has {found} partitions and CHOREO_PARTITIONS asks for {partitions}: a key "
                f"stays where it is for ever, so set CHOREO_PARTITIONS={found}."
            )


def _holds_records(admin: Admin, topic: str, partitions: Iterable[int]) -> bool:
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in partitions}
    ends = admin.list_offsets(asked).values() if asked else ()
    return any(end.result(_TIMEOUT).offset > 0 for end in ends)


def _check_retention(admin: Admin, topics: list[str]) -> None:
    for topic, wrong in _once_known(partial(forgetting_settings, admin, topics)).items():
        if wrong:
            has = ", ".join(f"{key}={value}" for key, value in wrong.items())
            cure = ", ".join(f"{key}={value}" for key, value in FOREVER.items())
            raise Unavailable(f"Topic {topic} has {has} and would forget facts: set {cure} on it.")


def _once_known(ask: Callable[[], T]) -> T:
    """What is asked of one broker about topics that another one just made."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            return ask()
        except KafkaException as error:
            code = error.args[0].code()
            if code != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def forgetting_settings(
    admin: Admin, topics: Sequence[str], timeout_seconds: float = _TIMEOUT
) -> Mapping[str, Mapping[str, str]]:
    """Returns, by topic, the settings with which it would forget records; none if it keeps all for ever."""
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    found = {}
    for resource, asked in admin.describe_configs(resources, request_timeout=timeout_seconds).items():
        config = asked.result()
        found[resource.name] = {
            key: config[key].value for key, value in FOREVER.items() if config[key].value != value
        }
    return found
