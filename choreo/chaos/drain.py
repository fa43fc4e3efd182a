"""Whether everything is handled: asked of the databases and of Kafka, never of a service."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from choreo.chaos.evidence import end_offsets
from choreo.chaos.history import Place
from choreo.chassis.database.connection import session
from choreo.chassis.registry import description_of

_LOOK_AGAIN = 0.1

_COUNTS = {
    "unpublished facts": "SELECT count(*), NULL FROM outbox",
    "parked events": "SELECT count(*), NULL FROM parked",
}
"""Everywhere; and of each service what it says is waiting."""
_POSITIONS = "SELECT topic, partition, next_offset FROM positions"

Connections = Mapping[str, psycopg.Connection[tuple[Any, ...]]]
Sight = tuple[Mapping[Place, int], Mapping[tuple[str, str, int], int]]
"""Where the topics end, and how far each service is with them, at about one moment."""


def drain(facts: Mapping[str, Any], deadline: float) -> list[str]:
    """Returns once everything is handled, or at the deadline (monotonic) with what is not."""
    while True:
        try:
            with ExitStack() as stack:
                connections = {
                    service: stack.enter_context(psycopg.connect(**session(url), autocommit=True))
                    for service, url in facts["owner_urls"].items()
                }
                return _until_done(facts, connections, deadline)
        except (psycopg.Error, KafkaException) as error:
            if time.monotonic() > deadline:
                return [f"it cannot be looked at: {error}"]
            time.sleep(_LOOK_AGAIN)


def _until_done(facts: Mapping[str, Any], connections: Connections, deadline: float) -> list[str]:
    """Done is what shows no change between two looks: one alone may miss what is just on its way."""
    before: Sight | None = None
    while True:
        seen, undone = _look(facts, connections)
        if not undone and seen == before:
            return []
        if time.monotonic() > deadline:
            return undone or ["it does not come to rest"]
        before = seen
        time.sleep(_LOOK_AGAIN)


def _look(facts: Mapping[str, Any], connections: Connections) -> tuple[Sight, list[str]]:
    undone = []
    positions: dict[tuple[str, str, int], int] = {}
    for service, conn in connections.items():
        waiting = description_of(service).waiting
        for what, query in (_COUNTS | ({waiting.what: waiting.query} if waiting else {})).items():
            ((count, _),) = conn.execute(query.encode()).fetchall()
            if count:
                undone.append(f"{service}: {count} {what}")
        for topic, partition, next_offset in conn.execute(_POSITIONS).fetchall():
            positions[service, topic.removeprefix(facts["topic_prefix"]), partition] = next_offset
    ends = end_offsets(facts)
    for (service, topic, partition), next_offset in positions.items():
        if next_offset < ends[topic, partition]:
            behind = ends[topic, partition] - next_offset
            undone.append(f"{service}: {behind} records of {topic}[{partition}] are unread")
    return (ends, positions), undone
