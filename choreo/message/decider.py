"""The words a decider is written in.

A service is three plain functions, after Jérémie Chassaing's decider and emmett's rendering of it:

    decide(command, state, now) -> facts or a refusal
    evolve(state, event)        -> state
    react(event, state)         -> commands

None of them knows a clock, chance, a database, Kafka or HTTP.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args
from uuid import UUID

from choreo.message.envelope import Cause
from choreo.message.fact import Fact, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(ABC):
    """A wish. Its facts follow from its cause and take their ids from it."""

    ends_sessions: ClassVar[bool] = False
    """Whether it needs to know which sessions of the user's are ended already."""

    cause: Cause

    @property
    @abstractmethod
    def key(self) -> str:
        """The key whose state it concerns."""

    @property
    def keys(self) -> frozenset[str]:
        """All keys that are locked while it is decided."""
        return frozenset({self.key})


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCommand(Command):
    user_id: UUID

    @property
    def key(self) -> str:
        return text_of(self.user_id)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision not to, with its numbers. Nothing is written for it but the reply, if it is remembered."""

    remembered: ClassVar[bool] = True
    """Whether the same command, asked again, is refused again without a look. False where it may succeed."""

    @property
    def numbers(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


Decision = Sequence[Fact] | Refusal


def types_of(union: Any) -> tuple[type[Any], ...]:
    """The types of `A | B`; of a single type, that."""
    return get_args(union) or (union,)
