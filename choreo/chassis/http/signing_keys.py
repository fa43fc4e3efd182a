"""The public keys this service has heard of, where the token verifier looks for them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import signing_keys
from choreo.chassis.http.auth import Jwk
from choreo.chassis.waiting.waiters import Waiters

_KNOWN_FOR = timedelta(minutes=1)
_LAG_KNOWN_FOR = timedelta(seconds=1)


class HeardKeys:
    """A `KeySource` over the table of signing keys, with those once found kept in memory for a minute:
    a key that is retired ends earlier than it first said.
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
        self._known: dict[str, tuple[Jwk, datetime, datetime]] = {}
        self._is_behind = is_behind
        self._lag: tuple[asyncio.Future[bool], datetime] | None = None

    async def find(self, kid: str) -> Jwk | None:
        now = self._clock()
        known = self._known.get(kid)
        if known is None or known[2] <= now:
            async with self._engine.connect() as conn:
                query = select(signing_keys.c.public_jwk, signing_keys.c.not_after).where(
                    signing_keys.c.kid == kid
                )
                row = (await conn.execute(query)).first()
            if row is None:
                return None
            known = self._known[kid] = row.public_jwk, row.not_after, now + _KNOWN_FOR
        jwk, not_after, _ = known
        return jwk if now < not_after else None

    async def lags(self) -> bool:
        """Looks once a second at most, however many unknown key ids are asked for."""
        now = self._clock()
        if self._lag is None or self._lag[1] <= now:
            self._lag = asyncio.ensure_future(self._is_behind()), now + _LAG_KNOWN_FOR
        return await asyncio.shield(self._lag[0])

    async def wait_for(self, kid: str, timeout: float) -> Jwk | None:
        return await self._waiters.until(
            kid, timeout, lambda: self.find(kid), lambda jwk: jwk is not None, of=kid
        )
