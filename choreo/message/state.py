"""What every service keeps alike: the chassis' part of a state, and how facts change it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from choreo.message.decider import types_of
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished

S = TypeVar("S", bound="State")

SharedFact = SigningKeyPublished | SessionsEnded
"""What the chassis hears and keeps for every service. No service's own `evolve` or `react` is given it."""
SHARED_FACTS: tuple[type[Fact], ...] = types_of(SharedFact)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a service knows of one key: the service's own fields, and these."""

    signing_keys: Mapping[str, SigningKeyPublished] = field(default_factory=dict)
    """By key id."""
    sessions_ended: SessionsEnded | None = None
    """Of the user whose key it is; there for who ends them."""


def evolve(state: S, event: Event[SharedFact]) -> S:
    match event.data:
        case SigningKeyPublished() as fact:
            return replace(state, signing_keys={**state.signing_keys, fact.kid: fact})
        case SessionsEnded() as fact:
            known = state.sessions_ended
            later = known is None or known.not_before < fact.not_before
            return replace(state, sessions_ended=fact) if later else state
        case unknown:
            assert_never(unknown)
