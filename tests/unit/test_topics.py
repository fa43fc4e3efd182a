"""Topics are declared on brokers that hear of them one after the other."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from choreo.chassis.kafka.admin import topics
from choreo.chassis.kafka.admin.client import Admin


class SomeBroker:
    """It hears of a topic only when it has been asked so often: which no real one does when it is wanted."""

    def __init__(self, deaf_for: int, code: int = KafkaError.UNKNOWN_TOPIC_OR_PART) -> None:
        self.deaf_for, self.code, self.asked = deaf_for, code, 0

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, "Future[Any]"]:
        self.asked += 1
        return {resource: self._answer() for resource in resources}

    def _answer(self) -> "Future[Any]":
        answer: Future[Any] = Future()
        if self.asked <= self.deaf_for:
            answer.set_exception(KafkaException(KafkaError(self.code)))
        else:
            answer.set_result({key: Setting(value) for key, value in topics.FOREVER.items()})
        return answer


class Setting:
    def __init__(self, value: str) -> None:
        self.value = value


def check(broker: Any) -> None:
    admin: Admin = broker
    topics._check_retention(admin, ["user-events"])


def test_a_broker_that_has_not_heard_of_a_topic_that_is_there_is_asked_again() -> None:
    broker = SomeBroker(deaf_for=2)
    check(broker)
    assert broker.asked == 3


def test_whatever_else_it_says_is_told() -> None:
    broker = SomeBroker(deaf_for=1, code=KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        check(broker)
