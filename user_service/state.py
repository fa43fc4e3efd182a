"""Who is registered. Neither password nor private key is here: secrets are not facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from choreo.message.state import State


@dataclass(frozen=True, slots=True)
class User:
    """No two users share a login key or an e-mail key."""

    id: UUID
    login: str
    login_key: str
    email: str
    email_key: str
    created_at: datetime
    step: int


@dataclass(frozen=True, slots=True)
class Users(State):
    users: Mapping[UUID, User] = field(default_factory=dict)
    """Those a command concerns: with its user id, its login key or its e-mail key."""
