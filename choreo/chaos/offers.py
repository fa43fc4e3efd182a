"""What a service says in its own API document that any customer can ask, with the examples there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    service: str
    method: str
    path: str
    body: Any = None

    @property
    def name(self) -> str:
        return f"{self.service} {self.method.upper()} {self.path}"


def offers_in(service: str, document: Mapping[str, Any]) -> list[Offer]:
    """Returns those that want a token, no id, and a body only where there is an example. Streams are none."""
    return [
        Offer(service, method, path, body)
        for path, operations in document["paths"].items()
        for method in sorted(operations.keys() & {"get", "post"})
        if _is_for_customers(operations[method])
        for body in _bodies(operations[method], document["components"]["schemas"])
    ]


def _is_for_customers(operation: Mapping[str, Any]) -> bool:
    needed = {wanted["name"] for wanted in operation.get("parameters", ()) if wanted["required"]}
    answers = [answer.get("content", {}) for answer in operation["responses"].values()]
    streams = any("text/event-stream" in content for content in answers)
    return "security" in operation and needed <= {"idempotency-key"} and not streams


def _bodies(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the first example; None where no body is wanted."""
    if "requestBody" not in operation:
        yield None
        return
    wanted = operation["requestBody"]["content"].get("application/json", {}).get("schema", {})
    schema = schemas.get(wanted.get("$ref", "").rpartition("/")[2], wanted)
    yield from schema.get("examples", [])[:1]
