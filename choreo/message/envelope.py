"""What surrounds a fact: who decided it, when, in which order, and because of what."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha1
from typing import Generic, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from choreo.message.fact import Fact

F = TypeVar("F", bound=Fact, covariant=True)

NAMESPACE = UUID("7d1b1c0e-8f39-5d0a-9a53-0f6f2f6f5c11")
_HASHED = sha1(NAMESPACE.bytes, usedforsecurity=False)
_uuid_of_bytes = TypeAdapter(UUID).validator.validate_python


def derived_id(*parts: object) -> UUID:
    """The same parts give the same id, on every machine and for ever: a UUID of version 5.

    What `uuid.uuid5` gives, which hashes the namespace anew each time: every fact has such an id.
    """
    hashed = _HASHED.copy()
    hashed.update("\x1f".join(map(str, parts)).encode())
    told = bytearray(hashed.digest()[:16])
    told[6] = told[6] & 0x0F | 0x50  # the version
    told[8] = told[8] & 0x3F | 0x80  # and RFC 9562's variant
    derived: UUID = _uuid_of_bytes(bytes(told))
    return derived


def event_id(service: str, cause: UUID, type: str, number: int = 0) -> UUID:
    """The id of a cause's `number`-th result of this type, so that deciding twice gives the same id."""
    return derived_id("event", service, cause, type, number)


@dataclass(frozen=True, slots=True)
class Cause:
    """What a command follows from: a request at the edge (a root), or an event."""

    id: UUID
    correlation_id: UUID
    trace_id: str
    """32 hex digits, the trace-id of a W3C traceparent."""
    is_event: bool = False
    caller: str | None = None
    """Of a root whose client told a traceparent: parent-id and flags in it, as `00f067aa0ba902b7-01`."""

    @staticmethod
    def root(id: UUID, trace_id: str | None = None, caller: str | None = None) -> "Cause":
        """A new flow begins here and takes its name from the request's command id."""
        return Cause(id, correlation_id=id, trace_id=trace_id or id.hex, caller=caller)


@dataclass(frozen=True, slots=True)
class Event(Generic[F]):
    """A fact in its envelope."""

    id: UUID
    source: str
    """The service that decided it, without the slash of `ce_source`."""
    time: datetime
    key: str
    sequence: int
    """The key's number at the source: strictly increasing, gaps allowed."""
    correlation_id: UUID
    causation_id: UUID | None
    trace_id: str
    data: F
    applied_sequence: int = 0
    """The key's number at the service that applies it; equal to `sequence` at the source."""

    @property
    def type(self) -> str:
        return type(self.data).__name__

    def applied_as(self, sequence: int) -> "Event[F]":
        """The same event, with the number its key has by then at the service that applies it."""
        return Event(
            self.id,
            self.source,
            self.time,
            self.key,
            self.sequence,
            self.correlation_id,
            self.causation_id,
            self.trace_id,
            self.data,
            sequence,
        )

    @property
    def cause(self) -> Cause:
        """The cause of whatever is decided because of this event."""
        return Cause(self.id, self.correlation_id, self.trace_id, is_event=True)
