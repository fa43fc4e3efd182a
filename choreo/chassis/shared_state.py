"""The rows that the chassis keeps in every service's database, beside the service's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.tables import sessions_ended, signing_keys
from choreo.chassis.transaction.state_store import Memory, ReplayableStore, TableMapping, save
from choreo.message.sessions import SessionsEnded
from choreo.message.signing_key import SigningKeyPublished

S = TypeVar("S")

SIGNING_KEYS = TableMapping(
    "signing_keys", signing_keys, SigningKeyPublished, key="kid", loaded_with_key={}, loaded_by_id="kid"
)
"""The fact is the row."""
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

    async def load(self, conn: Connection, wanted: Mapping[str, Sequence[object]]) -> dict[str, S]:
        states = await self.own.load(conn, wanted)
        for row in await SIGNING_KEYS.load(conn, wanted):
            states[row.kid] = _with_signing_keys(states[row.kid], {row.kid: row})
        ending = {key: inputs for key, inputs in wanted.items() if any(map(_ends_sessions, inputs))}
        for row in await SESSIONS_ENDED.load(conn, ending):
            key = str(row.user_id)
            states[key] = _with_sessions_ended(states[key], row)
        return states

    async def save(self, conn: Connection, before: Mapping[str, S], after: Mapping[str, S]) -> None:
        await self.own.save(conn, before, after)
        await save(conn, [SIGNING_KEYS, SESSIONS_ENDED], before, after)

    def from_memory(self, memory: Memory, key: str, content: object) -> S:
        state = self.own.from_memory(memory, key, content)
        if _ends_sessions(content):
            for row in memory.with_key(SESSIONS_ENDED, key).values():
                state = _with_sessions_ended(state, row)
        rows = memory.with_key(SIGNING_KEYS, key)
        return _with_signing_keys(state, rows) if rows else state


def _ends_sessions(content: object) -> bool:
    kind: Any = type(content)
    return _is_of_sessions(kind)


@cache
def _is_of_sessions(kind: type[Any]) -> bool:
    """Asked of the type, once: a fact takes long to say that it lacks an attribute."""
    return issubclass(kind, SessionsEnded) or bool(getattr(kind, "ends_sessions", False))


def _with_signing_keys(state: S, rows: Mapping[str, Any]) -> S:
    return dataclasses.replace(state, signing_keys=rows)  # type: ignore[type-var]


def _with_sessions_ended(state: S, row: SessionsEnded) -> S:
    return dataclasses.replace(state, sessions_ended=row)  # type: ignore[type-var]
