"""What the kernel is given, and what it gives back."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from choreo.chassis.database.connection import Connection
from choreo.chassis.http.answer import Answer
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


class Unavailable(Exception):
    """The database is away. The command may or may not be carried out; repeating it is safe."""


class Overloaded(Unavailable):
    """More was accepted than can be finished in time. The command was not carried out."""


class KeyReused(Exception):
    """The idempotency key stands for a request with another body."""


class Failed(Exception):
    """A handler raised, or the database refused what it wanted written. Nothing was written."""


class PositionGap(Exception):
    """A record is not the next one of its partition: this reader's place is not the truth any more."""


Respond = Callable[[Decided], Answer]
Aside = Callable[[Connection, Decided], Awaitable[None]]
"""Writes what is no fact (secrets, leases) inside the command's transaction, once it was accepted."""


@dataclass(slots=True, eq=False)
class Asked:
    """A command from outside. Its id is fixed at the edge: who repeats it finds the first answer."""

    id: UUID
    command: Command
    respond: Respond
    fingerprint: bytes
    aside: Aside | None
    received_at: datetime
    done: "asyncio.Future[Answer]"

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
    refused: Exception | None = None
    """Why the database would not take what it leads to."""
    fetched_from: int | None = None
    """Where the reading went on that found it: no record lies between. None: at its own offset."""
    leader_epoch: int = -1
    """Of the leader that appended it; -1 where it is not known."""
    is_marker: bool = False
    """There is no record up to this offset, only what Kafka wrote for itself at the end of a transaction."""

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
        return key if key and "\0" not in key else str(self.id)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset({self.key})

    @property
    def content(self) -> object:
        return self.event.data if self.event else None

    @property
    def correlation_id(self) -> UUID | None:
        return self.event.correlation_id if self.event else None


Input = Asked | Heard
FactTypes = Collection[type[Fact]]


def read(record: Record, hears: FactTypes) -> tuple[Event[Fact] | None, str | None]:
    """The event, if it is one that is heard; or why it is none. Neither: an event for somebody else.

    Raises `UnknownType`.
    """
    try:
        event = decode(record)
    except Undecodable as undecodable:
        return None, str(undecodable)
    return (event if type(event.data) in hears else None), None
