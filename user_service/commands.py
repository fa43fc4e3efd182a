"""What the user service can be asked to do. Passwords and private keys never come this far."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from choreo.message.decider import Command, Refusal, UserCommand
from user_service.state import User, compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Register(UserCommand):
    login: str
    email: str
    casefold_alone: bool = True
    """How names are compared in this decision. Journals of before do not say: so they were."""

    @property
    def login_key(self) -> str:
        return compared(self.login)

    @property
    def email_key(self) -> str:
        return compared(self.email)

    def wants_login_of(self, user: User) -> bool:
        return self._is_one(self.login, user.login)

    def wants_email_of(self, user: User) -> bool:
        return self._is_one(self.email, user.email)

    def _is_one(self, name: str, other: str) -> bool:
        if self.casefold_alone:
            return name.casefold() == other.casefold()
        return compared(name) == compared(other)

    @property
    def keys(self) -> frozenset[str]:
        """Two registrations of one name wait for each other, whoever they make."""
        return frozenset({self.key, f"login:{self.login_key}", f"email:{self.email_key}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSigningKey(Command):
    kid: str
    public_jwk: dict[str, str]
    not_after: datetime

    @property
    def key(self) -> str:
        return self.kid


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireSigningKey(Command):
    """It signs no more, and verifies only what it has signed."""

    kid: str
    not_after: datetime

    @property
    def key(self) -> str:
        return self.kid


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePassword(UserCommand):
    """What was issued to whoever knew the old one is good no more."""

    ends_sessions: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSessions(UserCommand):
    """Whoever holds a token of before has to log in again."""

    ends_sessions: ClassVar[bool] = True


Commands = Register | ChangePassword | EndSessions | PublishSigningKey | RetireSigningKey


@dataclass(frozen=True, slots=True)
class LoginTaken(Refusal):
    """Somebody has this login, in whatever capitals and spelling."""


@dataclass(frozen=True, slots=True)
class EmailTaken(Refusal):
    """Somebody has this e-mail address, in whatever capitals and spelling."""
