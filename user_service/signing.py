"""Which key signs. A key signs only after everybody could hear of it: keys before tokens.

The newest such key signs. Those before it are retired: they verify until what they signed has expired.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import structlog
from sqlalchemy import Row, exists, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection
from choreo.chassis.database.tables import outbox
from choreo.chassis.http import auth
from choreo.chassis.http.problems import unavailable
from choreo.chassis.observe.health import Job
from choreo.chassis.service import Rotation
from choreo.chassis.transaction.inputs import Decided, SideWrite, Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.envelope import Cause
from user_service.commands import PublishSigningKey, RetireSigningKey
from user_service.state import Users
from user_service.tables import private_keys

LIFETIME = timedelta(days=365)
RENEWED = timedelta(days=30)
"""So long before a key ends there is another."""
SETTLED = timedelta(seconds=10)
"""So old is a key, after its fact is acknowledged, when it begins to sign; the first signs at once."""
_REMEMBERED = timedelta(seconds=2)
_PAUSE = 1.0
_LOOK_AGAIN = 60.0
_ACKNOWLEDGED_WITHIN = 5.0
_SECONDS_BETWEEN_LOOKS = 0.1
VERIFIES_ON = timedelta(seconds=auth.LIFETIME + auth.LEEWAY) + timedelta(minutes=1)
"""So long a retired key is good: a token's lifetime, and a minute for processes that still sign with it."""

_KEEP = """/* private_keys.keep: beside its fact, in the same transaction */
INSERT INTO private_keys (kid, private_jwk, event_id, published_at, not_after)
VALUES (%s, %s::jsonb, %s, %s, %s)"""

_RETIRE = """/* private_keys.retire: beside its fact, in the same transaction */
UPDATE private_keys SET not_after = least(not_after, %s) WHERE kid = %s"""

log = structlog.get_logger()


class Signer:
    def __init__(self, kernel: Kernel[Users], engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
        self._kernel = kernel
        self._engine = engine
        self._clock = clock
        self._current: tuple[auth.Jwk, datetime] | None = None

    async def token(self, user_id: UUID, began: datetime) -> str:
        """For a session that began then."""
        now = self._clock()
        if self._current is None or self._current[1] <= now:
            self._current = await self._signing_key(now), now + _REMEMBERED
        return auth.sign(self._current[0], user_id, now=began.timestamp())

    async def run(self, job: Job) -> None:
        """Sees to it that there is a key for some time to come, and retires old ones; until cancelled."""
        while True:
            try:
                if not await self.good_keys(self._clock() + RENEWED):
                    await self.publish()
                await self.retire()
                job.got_on()
                await asyncio.sleep(_LOOK_AGAIN)
            except Unavailable as error:
                job.held_up(str(error))
                await asyncio.sleep(_PAUSE)
            except Exception as error:
                job.held_up(f"no signing key can be made or retired: {type(error).__name__}")
                log.warning("no signing key yet, trying again", error=repr(error))
                await asyncio.sleep(_PAUSE)

    async def publish(self) -> str:
        """Makes a new key and publishes its public half. Returns its id."""
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

        await self._kernel.ask(command, side_write=keep)
        return command.kid

    async def rotate(self) -> Rotation:
        """Publishes a new key beside those there are, and waits a moment for Kafka to have it."""
        before = await self.good_keys()
        kid = await self.publish()
        key = await self._acknowledged(kid)
        older = tuple(key.kid for key in before[-1:])
        return Rotation(kid, key.acknowledged, key.published_at + SETTLED, older, VERIFIES_ON)

    async def _acknowledged(self, kid: str) -> Row[Any]:
        """The key as it stands once Kafka has it, or after `_ACKNOWLEDGED_WITHIN` seconds."""
        deadline = asyncio.get_running_loop().time() + _ACKNOWLEDGED_WITHIN
        while True:
            (key,) = [key for key in await self.good_keys() if key.kid == kid]
            if key.acknowledged or asyncio.get_running_loop().time() > deadline:
                return key
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def retire(self) -> None:
        """Gives an end to the keys that another has taken over from. Safe to repeat."""
        now = self._clock()
        keys = await self.good_keys(now)
        older = keys[: keys.index(_signs(keys, now))] if keys else []
        for old in (key for key in older if key.not_after > now + VERIFIES_ON):
            command = RetireSigningKey(cause=Cause.root(uuid4()), kid=old.kid, not_after=now + VERIFIES_ON)
            await self._kernel.ask(command, side_write=_end(command))

    async def _signing_key(self, now: datetime) -> auth.Jwk:
        keys = await self.good_keys(now)
        if not keys:
            raise unavailable("There is no key to sign with yet; try again soon.")
        jwk: auth.Jwk = _signs(keys, now).private_jwk
        return jwk

    async def good_keys(self, at: datetime | None = None) -> list[Row[Any]]:
        """Those good at this time, or now; oldest first."""
        waiting = exists(select(outbox.c.position).where(outbox.c.event_id == private_keys.c.event_id))
        query = (
            select(private_keys, (~waiting).label("acknowledged"))
            .where(private_keys.c.not_after > (at or self._clock()))
            .order_by(private_keys.c.published_at)
        )
        async with self._engine.connect() as conn:
            return list((await conn.execute(query)).all())


def _signs(keys: Sequence[Row[Any]], now: datetime) -> Row[Any]:
    settled = [key for key in keys if key.acknowledged and key.published_at + SETTLED <= now]
    return settled[-1] if settled else keys[0]


def _end(command: RetireSigningKey) -> SideWrite:
    async def end(conn: Connection, _: Decided) -> None:
        await conn.execute(_RETIRE, [command.not_after, command.kid])

    return end
