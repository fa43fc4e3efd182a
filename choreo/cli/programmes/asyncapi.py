"""A service's AsyncAPI document: the facts it publishes and hears, from the catalogue and the codec."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from choreo.chassis.kafka.admin.topics import FOREVER
from choreo.chassis.service import Service
from choreo.message.catalog import SOURCE_OF_TYPE, published_by, topic_of
from choreo.message.codec import encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.schema import schema_of

Json = dict[str, Any]

_BINDING = "0.5.0"
"""Version of AsyncAPI's Kafka binding."""


def asyncapi_of(service: Service[Any], partitions: int, examples: Mapping[str, Event[Fact]]) -> Json:
    """AsyncAPI 3.0. `partitions` are those of each topic; an example is an event of its type."""
    published = published_by(service.name)
    facts = sorted({*published, *service.consumes}, key=lambda fact: fact.__name__)
    heard = sorted({topic_of(SOURCE_OF_TYPE[fact.__name__]) for fact in service.consumes})
    operations: Json = {"publish": _operation("send", topic_of(service.name), published)}
    for topic in heard:
        consumed = [fact for fact in facts if fact in service.consumes and _topic(fact) == topic]
        operations[f"hear-{topic}"] = _operation("receive", topic, consumed) | {
            "bindings": _kafka(groupId={"type": "string", "enum": [f"{service.name}-service"]})
        }
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:choreo:{service.name}",
        "info": {
            "title": f"{service.name.capitalize()} service: events",
            "version": "1",
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:9092",
                "protocol": "kafka",
                "description": "As `choreo up` starts it; another cluster by KAFKA_BOOTSTRAP_SERVERS.",
            }
        },
        "channels": {
            topic: _channel(topic, [fact for fact in facts if _topic(fact) == topic], partitions)
            for topic in sorted({topic_of(service.name), *heard})
        },
        "operations": operations,
        "components": {
            "messages": {fact.__name__: _message(fact, examples.get(fact.__name__)) for fact in facts},
            "schemas": {fact.__name__: _payload(fact) for fact in facts},
        },
    }


def _topic(fact: type[Fact]) -> str:
    return topic_of(SOURCE_OF_TYPE[fact.__name__])


def _channel(topic: str, facts: Iterable[type[Fact]], partitions: int) -> Json:
    return {
        "address": topic,
        "description": "Written by one service alone, kept for ever. One user's facts keep their order.",
        "messages": {fact.__name__: _ref("components", "messages", fact.__name__) for fact in facts},
        "bindings": _kafka(
            topic=topic,
            partitions=partitions,
            topicConfiguration={
                "cleanup.policy": [FOREVER["cleanup.policy"]],
                "retention.ms": int(FOREVER["retention.ms"]),
                "retention.bytes": int(FOREVER["retention.bytes"]),
            },
        ),
    }


def _operation(action: str, topic: str, facts: Iterable[type[Fact]]) -> Json:
    return {
        "action": action,
        "channel": _ref("channels", topic),
        "messages": [_ref("channels", topic, "messages", fact.__name__) for fact in facts],
    }


def _message(fact: type[Fact], example: Event[Fact] | None) -> Json:
    meaning = fact.__doc__ if "__doc__" in vars(fact) else None
    return {
        "name": fact.__name__,
        "title": f"{fact.__name__}, version {fact.VERSION}",
        **({"summary": meaning.partition("\n")[0]} if meaning else {}),
        "contentType": "application/json",
        "headers": _headers(fact),
        "payload": _ref("components", "schemas", fact.__name__),
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": _kafka(key={"type": "string", "description": f"The {fact.KEY} of the data."}),
        **({"examples": [_example(example)]} if example else {}),
    }


def _example(event: Event[Fact]) -> Json:
    record = encode(event)
    headers = {name: (value or b"").decode() for name, value in record.headers}
    return {"headers": headers, "payload": orjson.loads(record.value or b"")}


def _payload(fact: type[Fact]) -> Json:
    """As stored, without the names of the dialect and of itself, which belong to a file."""
    return {name: value for name, value in schema_of(fact).items() if not name.startswith("$")}


def _headers(fact: type[Fact]) -> Json:
    """CloudEvents 1.0, Kafka binding, binary mode."""
    source = SOURCE_OF_TYPE[fact.__name__]
    told: dict[str, tuple[Json, str]] = {
        "content-type": ({"const": "application/json"}, "Of the value."),
        "ce_specversion": ({"const": "1.0"}, "Of CloudEvents."),
        "ce_id": (_UUID, "Of the event, derived from its cause: readers recognise a repeat by it."),
        "ce_source": ({"const": f"/{source}"}, "The service that decided it."),
        "ce_type": ({"const": fact.__name__}, "What happened."),
        "ce_time": ({"format": "date-time"}, "When it was decided, in UTC."),
        "ce_subject": ({}, f"What it is about: the {fact.SUBJECT} of the data."),
        "ce_dataschema": (
            {"const": f"urn:choreo:{fact.__name__}:{fact.VERSION}"},
            "The version of the data's schema. Older ones are in the log for ever, and lifted on reading.",
        ),
        "ce_partitionkey": ({}, "The record's key once more."),
        "ce_sequence": (
            {"pattern": "^[0-9]{20}$"},
            "This key's step number at the source: strictly increasing, gaps allowed.",
        ),
        "ce_correlationid": (_UUID, "The whole flow: everything that follows from one request."),
        "ce_causationid": (_UUID, "The event it follows from; absent at a root."),
        "traceparent": (
            {"pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
            "W3C Trace Context.",
        ),
    }
    return {
        "type": "object",
        "required": [name for name in told if name != "ce_causationid"],
        "properties": {
            name: {"type": "string", **schema, "description": meaning}
            for name, (schema, meaning) in told.items()
        },
    }


_UUID: Json = {"format": "uuid"}

_DESCRIPTION = """Facts as CloudEvents 1.0 in the binary mode of the Kafka binding. The key is the user id \
(of a SigningKeyPublished the key id), so that one user's facts keep their order.

Delivery is at least once: a record may repeat, byte for byte, and first occurrences are in order. Recognise \
repeats by `ce_id`. Money is an integer of minor units (cents)."""


def _kafka(**members: Any) -> Json:
    return {"kafka": {**members, "bindingVersion": _BINDING}}


def _ref(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}
