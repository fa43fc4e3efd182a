"""Logins and e-mail addresses belong to whoever registers them first."""

from datetime import datetime
from typing import assert_never

from choreo.message.decider import Decision
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished
from events.user import UserRegistered
from user_service.commands import (
    ChangePassword,
    Commands,
    EmailTaken,
    EndSessions,
    LoginTaken,
    PublishSigningKey,
    Register,
    RetireSigningKey,
)
from user_service.state import Users

SERVICE = "user"


def decide(command: Commands, state: Users, now: datetime) -> Decision:
    match command:
        case Register():
            return _register(command, state)
        case ChangePassword() | EndSessions():
            return [SessionsEnded(user_id=command.user_id, not_before=now)]
        case PublishSigningKey():
            return [] if command.kid in state.signing_keys else [_published(command)]
        case RetireSigningKey():
            known = state.signing_keys.get(command.kid)
            if known is None or known.not_after <= command.not_after:
                return []
            return [known.model_copy(update={"not_after": command.not_after})]
        case _:
            assert_never(command)


def _register(command: Register, state: Users) -> Decision:
    if any(command.wants_login_of(user) for user in state.users.values()):
        return LoginTaken()
    if any(command.wants_email_of(user) for user in state.users.values()):
        return EmailTaken()
    return [UserRegistered(user_id=command.user_id, login=command.login, email=command.email)]


def _published(command: PublishSigningKey) -> SigningKeyPublished:
    if "d" in command.public_jwk:
        raise ValueError(f"the key {command.kid} is private, and facts are for everybody and for ever")
    return SigningKeyPublished(kid=command.kid, public_jwk=command.public_jwk, not_after=command.not_after)
