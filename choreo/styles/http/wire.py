"""A fact in a call: the same key, value and headers that a Kafka record of it has, as JSON."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from choreo.chassis.transaction.outbox import OutboxRow


def headers_of(fact: OutboxRow) -> dict[str, str]:
    return dict(orjson.loads(fact.headers))


def type_of(fact: OutboxRow) -> str:
    return headers_of(fact)["ce_type"]


def to_wire(fact: OutboxRow) -> dict[str, Any]:
    return {"key": fact.key, "value": fact.value.decode(), "headers": orjson.loads(fact.headers)}


def from_wire(told: Mapping[str, Any]) -> OutboxRow:
    """Raises KeyError, ValueError or TypeError where it is none."""
    headers = dict(told["headers"])
    return OutboxRow(
        event_id=UUID(headers["ce_id"]),
        key=told["key"],
        partition=0,
        value=told["value"].encode(),
        headers=orjson.dumps(told["headers"]),
        decided_at=datetime.fromisoformat(headers["ce_time"]),
    )
