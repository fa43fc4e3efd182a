"""What Kafka must let a client do, and whether it does.

Without these looks a missing grant is silent: Faust waits for ever for a group it may not join, and who may
not read a topic is up and hears nothing.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from chassis.kafka_access import KafkaAccess

_PATIENCE = 5.0
_ASK_AGAIN = 0.1
_DENIED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
_MOMENTARY = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


class AccessDenied(Exception):
    """Kafka does not let this client in, or not do its work. The message says who lacks what."""


class Grant(NamedTuple):
    """Leave to do something with something. READ and WRITE include DESCRIBE."""

    operation: str
    resource: Literal["topic", "group", "cluster"]
    name: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def writing(topic: str) -> frozenset[Grant]:
    return frozenset([Grant("WRITE", "topic", topic)])


def reading(topics: Iterable[str], group: str) -> frozenset[Grant]:
    """As a member of the group."""
    return frozenset([*(Grant("READ", "topic", name) for name in topics), Grant("READ", "group", group)])


def observing(topics: Iterable[str]) -> frozenset[Grant]:
    """To see everything of these topics, who has read how far, and who may do what; and to change nothing."""
    seen = [Grant(operation, "topic", name) for name in topics for operation in ("READ", "DESCRIBE_CONFIGS")]
    return frozenset([*seen, Grant("DESCRIBE", "group", "*"), Grant("DESCRIBE", "cluster", "kafka-cluster")])


@contextmanager
def asking(access: KafkaAccess) -> Iterator[AdminClient]:
    """A client of its own, gone afterwards. A name or password that Kafka refuses becomes `AccessDenied`."""
    errors: list[KafkaError] = []
    admin = AdminClient(access.confluent() | {"error_cb": errors.append})
    try:
        yield admin
    except KafkaException:
        admin.poll(0)
        if any(error.code() == KafkaError._AUTHENTICATION for error in errors):
            raise AccessDenied(
                f"Kafka at {access.bootstrap} refuses the name or the password of {access.principal}: "
                "correct KAFKA_USERNAME and KAFKA_PASSWORD, or this service's own"
            ) from None
        raise


def require(admin: AdminClient, access: KafkaAccess, wanted: Collection[Grant]) -> None:
    """Raises `AccessDenied`, naming which of these are missing. Blocks; raises KafkaException.

    Of what is not there nothing is missing.
    """
    allowed = {
        (kind, name): _allowed(admin, kind, name) for kind, name in {(g.resource, g.name) for g in wanted}
    }
    missing = [
        grant
        for grant in sorted(wanted)
        if (operations := allowed[grant.resource, grant.name]) is not None
        and grant.operation not in operations
    ]
    if missing:
        raise AccessDenied(
            f"Kafka does not grant {access.principal}: {', '.join(map(str, missing))}. See `choreo provision`"
        )


def _allowed(admin: AdminClient, kind: str, name: str) -> Collection[str] | None:
    """The operations this client may do with it; None where that cannot be told."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            described = _described(admin, kind, name).result()
        except KafkaException as error:
            code = error.args[0].code()
            if code in _DENIED:
                return ()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            if code not in _MOMENTARY or time.monotonic() > deadline:
                raise
            time.sleep(_ASK_AGAIN)
        else:
            operations = described.authorized_operations
            return None if operations is None else [operation.name for operation in operations]


def _described(admin: AdminClient, kind: str, name: str) -> "Future[Any]":
    how = {"include_authorized_operations": True, "request_timeout": _PATIENCE}
    if kind == "topic":
        topic: Future[Any] = admin.describe_topics(TopicCollection([name]), **how)[name]
        return topic
    group: Future[Any] = admin.describe_consumer_groups([name], **how)[name]
    return group
