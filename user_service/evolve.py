"""How facts change what the user service knows. Live handling and replay run these same lines."""

from dataclasses import replace

from choreo.message.envelope import Event
from choreo.message.fact import Fact
from events.user import UserRegistered
from user_service.state import User, Users


def evolve(state: Users, event: Event[Fact]) -> Users:
    match event.data:
        case UserRegistered() as fact:
            user = User(
                id=fact.user_id,
                login=fact.login,
                login_key=fact.login.casefold(),
                email=fact.email,
                email_key=fact.email.casefold(),
                created_at=event.time,
                step=event.step,
            )
            return replace(state, users={**state.users, user.id: user})
    return state
