"""What every service keeps alike: the chassis' part of a state, and how facts change it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from choreo.message.decider import types_of
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished

if TYPE_CHECKING:
    from dataclasses import replace as replace
else:

    def replace(row, /, **changes):
        """What `dataclasses.replace` gives, which asks each field anew what it is. What is left of the
        changes is no field of the row, and refused by that.
        """
        made = object.__new__(type(row)) if (slots := _slots(type(row))) else None
        for name, read, write in slots:
            write(made, changes.pop(name) if name in changes else read(row))
        return dataclasses.replace(row, **changes) if changes or not slots else made


@cache
def _slots(kind: type[Any]) -> list[tuple[str, Callable[[Any], Any], Callable[[Any, Any], None]]]:
    """How each field is read and written; none where one is kept otherwise, or more is done to make a row."""
    fields = dataclasses.fields(kind)
    slots: dict[str, Any] = {field.name: getattr(kind, field.name, None) for field in fields if field.init}
    plain = len(slots) == len(fields) and not hasattr(kind, "__post_init__")
    if not plain or not all(isinstance(slot, MemberDescriptorType) for slot in slots.values()):
        return []
    return [(name, slot.__get__, slot.__set__) for name, slot in slots.items()]


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
