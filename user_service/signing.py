"""Which key signs. A key signs only after everybody could hear of it: keys before tokens."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import structlog
from sqlalchemy import Row, exists, select
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import auth
from chassis.answer import Answer
from chassis.db import Connection
from chassis.inputs import Decided, Unavailable
from chassis.kernel import Kernel
from chassis.problems import unavailable
from chassis.tables import outbox
from events.envelope import Cause
from user_service.commands import PublishSigningKey
from user_service.state import Users
from user_service.tables import private_keys

LIFETIME = timedelta(days=365)
RENEWED = timedelta(days=30)
"""So long before a key ends there is another."""
SETTLED = timedelta(seconds=10)
"""So old is a key, after its fact is acknowledged, when it begins to sign; the first signs at once."""
_REMEMBERED = timedelta(seconds=2)
_PAUSE = 1.0
_LOOK_AGAIN = 3600.0

_KEEP = """/* private_keys.keep: beside its fact, in the same transaction */
INSERT INTO private_keys (kid, private_jwk, event_id, published_at, not_after)
VALUES (%s, %s::jsonb, %s, %s, %s)"""

log = structlog.get_logger()


class Signer:
    def __init__(self, kernel: Kernel[Users], engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
        self._kernel = kernel
        self._engine = engine
        self._clock = clock
        self._current: tuple[auth.Jwk, datetime] | None = None

    async def token(self, user_id: UUID) -> str:
        now = self._clock()
        if self._current is None or self._current[1] <= now:
            self._current = await self._signing_key(now), now + _REMEMBERED
        return auth.sign(self._current[0], user_id, now=now.timestamp())

    async def run(self) -> None:
        """Sees to it that there is a key for some time to come. Runs until cancelled."""
        while True:
            try:
                if not await self._keys(self._clock() + RENEWED):
                    await self.publish()
                await asyncio.sleep(_LOOK_AGAIN)
            except Unavailable:
                await asyncio.sleep(_PAUSE)
            except Exception as error:
                log.warning("no signing key yet, trying again", error=repr(error))
                await asyncio.sleep(_PAUSE)

    async def publish(self) -> None:
        """Makes a new key and publishes its public half."""
        private = auth.generate_key(kid=uuid4().hex)
        command = PublishSigningKey(
            cause=Cause.root(uuid4()),
            kid=private["kid"],
            public_jwk=dict(auth.public_part(private)),
            not_after=self._clock() + LIFETIME,
        )

        async def keep(conn: Connection, decided: Decided) -> None:
            (event,) = decided.events
            values = [command.kid, orjson.dumps(private).decode(), event.id, event.time, command.not_after]
            await conn.execute(_KEEP, values)

        await self._kernel.ask(command, lambda _: Answer(204, b""), aside=keep)

    async def _signing_key(self, now: datetime) -> auth.Jwk:
        keys = await self._keys(now)
        if not keys:
            raise unavailable("There is no key to sign with yet; try again soon.")
        settled = [key for key in keys if key.acknowledged and key.published_at + SETTLED <= now]
        jwk: auth.Jwk = (settled or keys)[-1 if settled else 0].private_jwk
        return jwk

    async def _keys(self, now: datetime) -> list[Row[Any]]:
        """Those good at this time, oldest first."""
        waiting = exists(select(outbox.c.position).where(outbox.c.event_id == private_keys.c.event_id))
        query = (
            select(private_keys, (~waiting).label("acknowledged"))
            .where(private_keys.c.not_after > now)
            .order_by(private_keys.c.published_at)
        )
        async with self._engine.connect() as conn:
            return list((await conn.execute(query)).all())
