"""Decisions over HTTP, and Kafka is told what has happened: whoever only listens needs no call."""

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from choreo.chassis.service import Service
from choreo.styles.composition import COMPOSITIONS, Composition
from choreo.styles.http.calls import Recipient
from choreo.styles.http.runtime import HttpRuntime
from choreo.styles.notifications.topic import Topic

S = TypeVar("S")


class NotifyingRuntime(HttpRuntime[S]):
    composition: ClassVar[Composition] = COMPOSITIONS["notifications"]

    def connect(self, service: Service[S]) -> None:
        super().connect(service)
        if service.name in self.composition.listeners:
            self.consume(service)

    def topics(self) -> Sequence[Recipient]:
        topic = Topic(self.access, self.topic_of(self.service), self.partition_of, self.settings.partitions)
        self.health.probe("broker", topic.probe)
        return [topic]
