"""The rows that the chassis keeps in every service's database, beside the service's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from choreo.chassis.database.round_trip import Later, RoundTrip
from choreo.chassis.database.tables import sessions_ended, signing_keys
from choreo.chassis.transaction.state_store import Memory, ReplayableStore, TableMapping, save
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished

S = TypeVar("S")

SIGNING_KEYS = TableMapping("signing_keys", signing_keys, SigningKeyPublished, key="kid", loaded_by_id="kid")
"""The fact is the row. Whatever is asked or heard of a signing key names it."""
SESSIONS_ENDED = TableMapping(
    "sessions_ended", sessions_ended, SessionsEnded, key="user_id", single=True, loaded_with_key={}
)
"""Likewise. Loaded for whoever ends sessions; nobody else's decision asks for it."""


@dataclass(frozen=True)
class WithSharedState(Generic[S]):
    """A service's store, and with each state the chassis' rows of the same key."""

    own: ReplayableStore[S]

    @cached_property
    def mappings(self) -> tuple[TableMapping, ...]:
        return (*self.own.mappings, SIGNING_KEYS, SESSIONS_ENDED)

    def load(self, trip: RoundTrip, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, S]]:
        ending = {key: inputs for key, inputs in wanted.items() if any(map(_ends_sessions, inputs))}
        own = self.own.load(trip, wanted)
        signing_keys = SIGNING_KEYS.load(trip, wanted)
        sessions_ended = SESSIONS_ENDED.load(trip, ending)

        def states() -> dict[str, S]:
            states = own()
            for row in signing_keys:
                states[row.kid] = _with_signing_keys(states[row.kid], {row.kid: row})
            for row in sessions_ended:
                key = str(row.user_id)
                states[key] = _with_sessions_ended(states[key], row)
            return states

        return states

    def save(self, trip: RoundTrip, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        self.own.save(trip, before, after)
        save(trip, [SIGNING_KEYS, SESSIONS_ENDED], before, after)

    def from_memory(self, memory: Memory, key: str, content: object) -> S:
        state = self.own.from_memory(memory, key, content)
        if _ends_sessions(content):
            for row in memory.with_key(SESSIONS_ENDED, key).values():
                state = _with_sessions_ended(state, row)
        known = memory.by_id(SIGNING_KEYS, key)
        return _with_signing_keys(state, {key: known}) if known else state


def _ends_sessions(content: object) -> bool:
    kind: Any = type(content)
    return _end_sessions(kind)


@cache
def _end_sessions(contents: type[Any]) -> bool:
    """Asked of the type, once: a fact takes long to say that it lacks an attribute."""
    return issubclass(contents, SessionsEnded) or getattr(contents, "ends_sessions", False)


def _with_signing_keys(state: S, rows: Mapping[str, Any]) -> S:
    return dataclasses.replace(state, signing_keys=rows)  # type: ignore[type-var]


def _with_sessions_ended(state: S, row: SessionsEnded) -> S:
    return dataclasses.replace(state, sessions_ended=row)  # type: ignore[type-var]
