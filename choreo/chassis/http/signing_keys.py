"""The public keys this service has heard of, where the token verifier looks for them."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import signing_keys
from choreo.chassis.http.auth import Jwk
from choreo.chassis.transaction.state_store import TableMapping
from choreo.chassis.transaction.waiters import Waiters
from choreo.message.signing_key import SigningKeyPublished

SIGNING_KEYS = TableMapping(
    "signing_keys", signing_keys, SigningKeyPublished, key="kid", loaded_with_key={}, loaded_by_id="kid"
)
"""Every service keeps them alike; the fact is the row."""

_KNOWN_FOR = timedelta(minutes=1)


class HeardKeys:
    """A `KeySource` over the table of signing keys, with those once found kept in memory for a minute:
    a key that is retired ends earlier than it first said.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        waiters: Waiters,
        clock: Callable[[], datetime],
        lags: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._waiters = waiters
        self._clock = clock
        self._known: dict[str, tuple[Jwk, datetime, datetime]] = {}
        self.lags = lags

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

    async def wait_for(self, kid: str, timeout: float) -> Jwk | None:
        return await self._waiters.until(
            kid, timeout, lambda: self.find(kid), lambda jwk: jwk is not None, of=kid
        )
