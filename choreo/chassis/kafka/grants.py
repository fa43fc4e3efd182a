"""What Kafka must let a client do, and whether it does.

Without these looks a missing grant is silent: Faust waits for ever for a group it may not join, and who may
not read a topic is up and hears nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

from aiokafka import errors

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.cluster import Cluster, Operations

_ASK_TIMEOUT_SECONDS = 5.0
_ASK_AGAIN = 0.1
_DENIED = (errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError)
_MOMENTARY = (
    errors.NotCoordinatorForGroupError,
    errors.GroupCoordinatorNotAvailableError,
    errors.GroupLoadInProgressError,
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
    """As a member of the group, that sees whether Kafka keeps every record of a key."""
    seen = [Grant(operation, "topic", name) for name in topics for operation in ("READ", "DESCRIBE_CONFIGS")]
    return frozenset([*seen, Grant("READ", "group", group)])


def observing(topics: Iterable[str]) -> frozenset[Grant]:
    """To see everything of these topics, who has read how far, and who may do what; and to change nothing."""
    seen = [Grant(operation, "topic", name) for name in topics for operation in ("READ", "DESCRIBE_CONFIGS")]
    return frozenset([*seen, Grant("DESCRIBE", "group", "*"), Grant("DESCRIBE", "cluster", "kafka-cluster")])


@asynccontextmanager
async def asking(access: KafkaAccess) -> AsyncIterator[Cluster]:
    """By connections that end with it. A name or password that Kafka refuses becomes `AccessDenied`."""
    async with Cluster(access) as cluster:
        try:
            yield cluster
        except errors.SaslAuthenticationFailed:
            raise refused(access) from None


def refused(access: KafkaAccess) -> AccessDenied:
    return AccessDenied(
        f"Kafka at {access.bootstrap} refuses the name or the password of {access.principal}: "
        "correct KAFKA_USERNAME and KAFKA_PASSWORD, or this service's own"
    )


async def require(cluster: Cluster, access: KafkaAccess, wanted: Collection[Grant]) -> None:
    """Raises `AccessDenied`, naming which of these are missing, and KafkaError.

    Of what is not there nothing is missing.
    """
    resources = {(grant.resource, grant.name) for grant in wanted}
    allowed = {(kind, name): await _allowed(cluster, kind, name) for kind, name in resources}
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


async def _allowed(cluster: Cluster, kind: str, name: str) -> Operations:
    """The operations this client may do with it; None where that cannot be told."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ASK_TIMEOUT_SECONDS
    while True:
        try:
            if kind == "topic":
                return (await cluster.metadata([name])).topic(name).operations
            return (await cluster.group(name)).operations
        except _DENIED:
            return ()
        except errors.UnknownTopicOrPartitionError:
            return None
        except _MOMENTARY:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(_ASK_AGAIN)
