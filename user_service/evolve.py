"""How facts change what the user service knows. Live handling and replay run these same lines."""

from dataclasses import replace
from typing import assert_never

from choreo.message.envelope import Event
from events.user import UserRegistered
from user_service.state import User, Users, compared

Applied = UserRegistered


def evolve(state: Users, event: Event[Applied]) -> Users:
    match event.data:
        case UserRegistered() as fact:
            user = User(
                id=fact.user_id,
                login=fact.login,
                login_key=compared(fact.login),
                email=fact.email,
                email_key=compared(fact.email),
                created_at=event.time,
                step=event.applied_sequence,
            )
            return replace(state, users={**state.users, user.id: user})
        case unknown:
            assert_never(unknown)
