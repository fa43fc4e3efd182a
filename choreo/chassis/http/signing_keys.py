"""The public keys this service has heard of, where the token verifier looks for them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import signing_keys
from choreo.chassis.http.auth import Jwk
from choreo.chassis.waiting.waiters import Waiters
from choreo.message.signing_key import SigningKeyPublished

_KNOWN_FOR = timedelta(minutes=1)
_LAG_KNOWN_FOR = timedelta(seconds=1)
_ALL = SigningKeyPublished.__name__
"""Is woken when any is heard."""
_Keys = Mapping[str, tuple[Jwk, datetime]]


class HeardKeys:
    """A `KeySource` over the table of signing keys, kept in memory for a minute: a key that is retired ends
    earlier than it first said. Whoever asks for keys that are not there shares a look with all who do.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        waiters: Waiters,
        clock: Callable[[], datetime],
        is_behind: Callable[[], Awaitable[bool]],
    ) -> None:
        self._engine = engine
        self._waiters = waiters
        self._clock = clock
        self._known: _Keys = {}
        self._good_until = datetime.min.replace(tzinfo=UTC)
        self._is_behind = is_behind
        self._lag: tuple[asyncio.Future[bool], datetime] | None = None

    async def find(self, kid: str) -> Jwk | None:
        if kid not in self._known or self._good_until <= self._clock():
            await self._waiters.look(_ALL, self._look, of=_ALL)
        return self._key(kid)

    async def lags(self) -> bool:
        """Looks once a second at most, however many unknown key ids are asked for."""
        now = self._clock()
        if self._lag is None or self._lag[1] <= now:
            self._lag = asyncio.ensure_future(self._is_behind()), now + _LAG_KNOWN_FOR
        return await asyncio.shield(self._lag[0])

    async def wait_for(self, kid: str, timeout: float) -> Jwk | None:
        await self._waiters.until(_ALL, timeout, self._look, lambda known: kid in known, of=_ALL)
        return self._key(kid)

    def _key(self, kid: str) -> Jwk | None:
        jwk, not_after = self._known.get(kid, (None, self._good_until))
        return jwk if self._clock() < not_after else None

    async def _look(self) -> _Keys:
        now = self._clock()
        query = select(signing_keys).where(signing_keys.c.not_after > now)
        async with self._engine.connect() as conn:
            rows = await conn.execute(query)
            self._known = {row.kid: (row.public_jwk, row.not_after) for row in rows}
        self._good_until = now + _KNOWN_FOR
        return self._known
