"""librdkafka's admin client, for what aiokafka cannot do: topics, users and ACLs. For short work only."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.grants import refused


@contextmanager
def administering(access: KafkaAccess) -> Iterator[AdminClient]:
    """A client of its own, gone afterwards. A name or password that Kafka refuses becomes `AccessDenied`."""
    errors: list[KafkaError] = []
    admin = AdminClient(access.confluent() | {"error_cb": errors.append})
    try:
        yield admin
    except KafkaException:
        admin.poll(0)
        if any(error.code() == KafkaError._AUTHENTICATION for error in errors):
            raise refused(access) from None
        raise
