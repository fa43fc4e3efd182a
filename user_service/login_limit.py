"""Five wrong passwords in fifteen minutes, per login and address, or fifty per address; then a pause.

An attempt is recorded as failed before the password is looked at, and taken back if it was none. So however
many are made at once, at however many processes of this service, no sixth wrong password is looked at.

Pairs of a login and an address that succeeded are known for a while: strangers who share their address, or
crowd the queue, do not keep them out. Of either only a digest is stored.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from hashlib import blake2b
from ipaddress import IPv6Address
from math import ceil

import structlog
from sqlalchemy import delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.client_address import address_of
from choreo.chassis.http.problems import Problem
from user_service.state import compared
from user_service.tables import failed_logins, known_pairs

MOST_FAILURES = 5
MOST_OF_ADDRESS = 50
WINDOW = timedelta(minutes=15)
KNOWN_FOR = timedelta(days=90)
MOST_KNOWN = 100_000
_SWEEP_SECONDS = 60.0
_LOCK_CLASS = 0x0106

log = structlog.get_logger()


class LoginLimit:
    """In one process attempts on one login from one address are made one after the other: who has the right
    password need not suffer from those of his own that are not decided yet.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._waiting: dict[bytes, int] = {}

    async def knows(self, login: str, address: str) -> bool:
        """Whether this login came from this address before."""
        query = select(known_pairs.c.pair).where(known_pairs.c.pair == _pair(login, address))
        async with self._engine.connect() as conn:
            return (await conn.execute(query)).first() is not None

    @asynccontextmanager
    async def attempt(self, login: str, address: str, known: bool = False) -> AsyncIterator["Attempt"]:
        """Raises 429 if there were too many failures."""
        pair = _pair(login, address)
        turn = self._turns.setdefault(pair, asyncio.Lock())
        self._waiting[pair] = self._waiting.get(pair, 0) + 1
        try:
            async with turn:
                attempt = Attempt(self._engine, self._clock(), pair, _digest(_net(address)), known)
                await attempt.begin()
                try:
                    yield attempt
                finally:
                    if not attempt.decided:
                        await attempt.withdraw()
        finally:
            self._waiting[pair] -= 1
            if not self._waiting[pair]:
                del self._turns[pair], self._waiting[pair]

    async def sweep(self) -> None:
        """Forgets what counts no more, once a minute, until cancelled."""
        while True:
            try:
                await self.forget()
            except Exception as error:
                log.debug("cannot sweep, trying again", error=repr(error))
            await asyncio.sleep(_SWEEP_SECONDS)

    async def forget(self) -> None:
        now = self._clock()
        surplus = select(known_pairs.c.at).order_by(known_pairs.c.at.desc()).offset(MOST_KNOWN).limit(1)
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).where(failed_logins.c.at <= now - WINDOW))
            await conn.execute(delete(known_pairs).where(known_pairs.c.at <= now - KNOWN_FOR))
            await conn.execute(delete(known_pairs).where(known_pairs.c.at <= surplus.scalar_subquery()))


class Attempt:
    decided = False

    def __init__(
        self, engine: AsyncEngine, now: datetime, pair: bytes, address: bytes, known: bool = False
    ) -> None:
        self._engine = engine
        self._now = now
        self._place = {"pair": pair, "address": address}
        self._ours = failed_logins.c.pair == pair
        self._known = known

    async def begin(self) -> None:
        """Records a failure. 429 where there are enough already."""
        of_address = failed_logins.c.address == self._place["address"]
        since = failed_logins.c.at > self._now - WINDOW
        turn = func.pg_advisory_xact_lock(_LOCK_CLASS, func.hashtext(self._place["pair"].hex()))
        async with self._engine.begin() as conn:
            await conn.execute(select(turn))
            for of, most in ((self._ours, MOST_FAILURES), (of_address, MOST_OF_ADDRESS)):
                if self._known and of is of_address:
                    continue
                latest = select(failed_logins.c.at).where(of, since).order_by(failed_logins.c.at.desc())
                # The pause ends when the last that fills the count is outside the window.
                filling = (await conn.execute(latest.offset(most - 1).limit(1))).scalar()
                if filling is not None:
                    raise _too_many((filling + WINDOW - self._now).total_seconds())
            await conn.execute(insert(failed_logins).values(at=self._now, **self._place))

    def failed(self) -> None:
        """It stays recorded."""
        self.decided = True

    async def succeeded(self) -> None:
        """The count starts again, and the pair is known."""
        known = upsert(known_pairs).values(pair=self._place["pair"], at=self._now)
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).where(self._ours))
            await conn.execute(known.on_conflict_do_update(index_elements=["pair"], set_={"at": self._now}))
        self.decided = True

    async def withdraw(self) -> None:
        """Nobody looked at the password."""
        async with self._engine.begin() as conn:
            await conn.execute(delete(failed_logins).where(self._ours, failed_logins.c.at == self._now))


def _too_many(pause: float) -> Problem:
    return Problem(
        429,
        "too_many_attempts",
        "There were too many wrong passwords. Try again later.",
        headers={"Retry-After": str(max(ceil(pause), 1))},
    )


def digest_of(login: str) -> str:
    """What a log line may say of a login."""
    return _digest(compared(login)).hex()


def _pair(login: str, address: str) -> bytes:
    return _digest(f"{compared(login)}\n{_net(address)}")


def _net(address: str) -> str:
    """What one customer has of addresses: of IPv6 a /64."""
    found = address_of(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return address if found is None else str(found)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
