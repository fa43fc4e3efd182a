"""What the kernel is given, and what it gives back."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from choreo.chassis.database.connection import Connection
from choreo.chassis.transaction.positions import TopicPartition
from choreo.message.codec import Record, Undecodable, decode
from choreo.message.decider import Command, Refusal
from choreo.message.envelope import Event, derived_id
from choreo.message.fact import Fact


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a command: its facts, or a refusal. `state` is the service's own, after it."""

    state: Any
    events: tuple[Event[Fact], ...]
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What whoever asked is told, stored beside the decision and given again byte for byte.

    The kernel does not read it: what a status or a header means is the edge's business.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Unavailable(Exception):
    """The database is away. The command may or may not be carried out; repeating it is safe."""


class Overloaded(Unavailable):
    """More was accepted than can be finished in time. The command was not carried out."""


class KeyReused(Exception):
    """The idempotency key stands for a request with another body."""


class Failed(Exception):
    """A handler raised, or the database rejected what it wanted written. Nothing was written."""


class PositionGap(Exception):
    """A record is not the next one of its partition: this reader's place is not the truth any more."""


Respond = Callable[[Decided], Reply]
"""Renders the reply to a decision. Who asks without one gets none."""
SideWrite = Callable[[Connection, Decided], Awaitable[None]]
"""Writes what is no fact (secrets) inside the command's transaction, once it was accepted."""


@dataclass(slots=True, eq=False)
class Asked:
    """A command from outside. Its id is fixed at the edge: who repeats it finds the first answer."""

    id: UUID
    command: Command
    respond: Respond | None
    fingerprint: bytes
    side_write: SideWrite | None
    received_at: datetime
    done: "asyncio.Future[Reply | None]"

    @property
    def key(self) -> str:
        return self.command.key

    @property
    def keys(self) -> frozenset[str]:
        return self.command.keys

    @property
    def content(self) -> object:
        return self.command

    @property
    def correlation_id(self) -> UUID:
        return self.command.cause.correlation_id


@dataclass(slots=True, eq=False)
class Heard:
    """A record of a topic: an event this service hears, something to skip, or something to park."""

    topic: str
    partition: int
    offset: int
    record: Record
    event: Event[Fact] | None
    """None: no event, or of a type this service does not hear."""
    error: str | None
    """Why it is no event."""
    received_at: datetime
    done: "asyncio.Future[None]"
    rejected: Exception | None = None
    """The database's error, where it would not take what this leads to."""
    fetched_from: int | None = None
    """Where the reading went on that found it: no record lies between. None: at its own offset."""
    epoch_before: int = -1
    """Of the leader that appended what lies before that; -1 where it is not known."""
    leader_epoch: int = -1
    """Of the leader that appended what is at its offset; -1 where it is not known."""
    is_marker: bool = False
    """There is no record up to this offset, only what Kafka wrote for itself at the end of a transaction."""

    @property
    def place(self) -> TopicPartition:
        return self.topic, self.partition

    @property
    def concerns(self) -> bool:
        return self.event is not None or self.error is not None

    @property
    def id(self) -> UUID:
        return self.event.id if self.event else derived_id("record", self.topic, self.partition, self.offset)

    @property
    def key(self) -> str:
        """The event's key; of a record that is no event, its Kafka key, or its place where there is none."""
        if self.event:
            return self.event.key
        try:
            key = (self.record.key or b"").decode()
        except UnicodeDecodeError:
            key = ""
        return storable(key) if key else str(self.id)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset({self.key})

    @property
    def content(self) -> object:
        return self.event.data if self.event else None

    @property
    def correlation_id(self) -> UUID | None:
        return self.event.correlation_id if self.event else None


_KEY_BYTES = 512
"""What an index of Postgres takes without fail, and ten times a user id."""


def storable(key: str) -> str:
    """The key, or a digest of one that the database would not take."""
    raw = key.encode(errors="surrogatepass")
    if len(raw) <= _KEY_BYTES and b"\0" not in raw:
        return key
    return f"sha256:{sha256(raw).hexdigest()}"


Input = Asked | Heard
FactTypes = Collection[type[Fact]]


def read(record: Record, consumes: FactTypes) -> tuple[Event[Fact] | None, str | None]:
    """The event, if it is one that is heard; or why it is none. Neither: an event for somebody else.

    Raises `UnknownType`.
    """
    try:
        event = decode(record)
    except Undecodable as undecodable:
        return None, str(undecodable)
    if storable(event.key) != event.key:
        return None, f"the key of this {event.type} cannot be stored: it has a NUL or over {_KEY_BYTES} bytes"
    return (event if type(event.data) in consumes else None), None
