"""Who comes to Kafka, and what each must be let do."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from chassis.grants import Grant, observing
from chassis.service import Service
from chassis.settings import OBSERVER, SERVICES, Settings
from events.catalog import TOPICS


def service_of(name: str, settings: Settings) -> Service[Any]:
    """As today's code has it."""
    described: Service[Any] = import_module(f"{name}_service.service").service(settings)
    return described


def topic_names(settings: Settings) -> list[str]:
    return [settings.topic_prefix + topic for topic in TOPICS.values()]


def grants_of_all(settings: Settings) -> Mapping[str, frozenset[Grant]]:
    """By service, and the observer's."""
    grants = {name: service_of(name, settings).grants(settings.topic_prefix) for name in SERVICES}
    return grants | {OBSERVER: observing(topic_names(settings))}
