"""Who is registered. Neither password nor private key is here: secrets are not facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from unicodedata import normalize
from uuid import UUID

from choreo.message.state import State


def compared(name: str) -> str:
    """The form in which logins and e-mail addresses are compared: two that look alike are one."""
    return normalize("NFKC", normalize("NFKC", name).casefold())


@dataclass(frozen=True, slots=True)
class User:
    """Two that were registered before names were compared as they are now may share a key: the older has the
    name.
    """

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
