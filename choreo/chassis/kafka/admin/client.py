"""librdkafka's admin client, for what aiokafka cannot do: topics, users and ACLs. For short work only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.grants import refused

Admin: TypeAlias = AdminClient


class RequestFailed(Exception):
    """Kafka refused what it was asked to do, or did not answer. The message is Kafka's."""


@contextmanager
def administering(access: KafkaAccess) -> Iterator[Admin]:
    """A client of its own, gone afterwards.

    Whatever Kafka answers instead becomes `RequestFailed`; a refused name or password, `AccessDenied`.
    """
    errors: list[KafkaError] = []
    admin = AdminClient(access.confluent() | {"error_cb": errors.append})
    try:
        yield admin
    except KafkaException as error:
        admin.poll(0)
        if any(error.code() == KafkaError._AUTHENTICATION for error in errors):
            raise refused(access) from None
        raise RequestFailed(error.args[0].str()) from error
