"""What the pinboard service knows of one user."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from choreo.message.state import State


@dataclass(frozen=True, slots=True)
class Board:
    """The one row of a user. Decisions need no other."""

    user_id: UUID
    notes: int
    most_notes: int
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Note:
    id: UUID
    user_id: UUID
    text: str
    at: datetime
    step: int
    """The newest has the highest: pages go by it."""


@dataclass(frozen=True, slots=True)
class Pinboard(State):
    board: Board | None = None
    notes: Mapping[UUID, Note] = field(default_factory=dict)
    """By id. They are only ever added, and none is needed to decide."""
