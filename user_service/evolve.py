"""How facts change what the user service knows. Live handling and replay run these same lines."""

from dataclasses import replace

from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.signing_key import SigningKeyPublished
from events.user import UserRegistered
from user_service.state import User, Users, compared


def evolve(state: Users, event: Event[Fact]) -> Users:
    match event.data:
        case UserRegistered() as fact:
            user = User(
                id=fact.user_id,
                login=fact.login,
                login_key=compared(fact.login),
                email=fact.email,
                email_key=compared(fact.email),
                created_at=event.time,
                step=event.step,
            )
            return replace(state, users={**state.users, user.id: user})
        case SigningKeyPublished() as fact:
            return replace(state, signing_keys={**state.signing_keys, fact.kid: fact})
    return state
