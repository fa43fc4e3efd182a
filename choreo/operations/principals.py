"""Who comes to Kafka, and what each must be let do."""

from collections.abc import Mapping

from choreo.chassis.kafka.grants import Grant, observing
from choreo.chassis.registry import all_topics, service_names, service_of
from choreo.chassis.settings import OBSERVER, Settings


def topic_names(settings: Settings) -> list[str]:
    return all_topics(settings.topic_prefix)


def grants_of_all(settings: Settings) -> Mapping[str, frozenset[Grant]]:
    """By service, and the observer's."""
    grants = {name: service_of(name, settings).grants(settings.topic_prefix) for name in service_names()}
    return grants | {OBSERVER: observing(topic_names(settings))}
