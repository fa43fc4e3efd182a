"""Tells the other processes of a service which keys were moved, through the database they share.

Over Postgres' NOTIFY, after the commit and in a transaction of its own: a commit that notifies holds a lock
of the whole server until it is on the disk, so in the kernel's transaction it would make all services queue.
What is lost between the two (the process is killed just then) costs a waiter elsewhere its wake, not the
shop a fact. As long as no other process listens, nothing is told.
"""

import asyncio
from collections.abc import Iterable
from uuid import uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, own_connection, raw_connection
from choreo.chassis.transaction.waiters import Waiters, tag_of

_NAME = "SET application_name = 'bell'"
_LISTEN = "/* bell.listen */ LISTEN keys_moved"

_SAY = """/* bell.say: to every process that listens; nothing is lost that a waiter would not outlive */
SELECT set_config('synchronous_commit', 'off', true), pg_notify('keys_moved', %s)"""

_RING = """/* bell.ring: these keys are moved once this transaction is committed */
SELECT pg_notify('keys_moved', %s)"""

_TAGS = 900
"""Tags of 8 characters, in a message that must have less than 8000."""
_CHECK = 15.0
"""Seconds of silence after which the connection has to show that it is one."""
_PATIENCE = 5.0
_PAUSE = 1.0
_NOBODY = "-"
_HELLO, _HERE = "hello", "here"

log = structlog.get_logger()


async def ring(conn: Connection, key: str) -> None:
    """For who is no process of the service: runs inside the caller's transaction, and needs no `Bell`."""
    await conn.execute(_RING, [f"{_NOBODY} {tag_of(key)}"])


class Bell:
    """`listen` and `tell` run as long as the process does.

    Who begins to listen says hello. Who hears that, or is answered, tells from then on, and says so: what it
    committed before, everybody who waits elsewhere then looks for. While the listening connection is away,
    everybody who waits here looks once a second.
    """

    def __init__(self, engine: AsyncEngine, waiters: Waiters) -> None:
        self._engine = engine
        self._waiters = waiters
        self._name = uuid4().hex
        self._others = False
        self._greets = False
        self._moved: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, keys: Iterable[str]) -> None:
        """To be called after a commit that moved these keys."""
        if self._others:
            self._moved.update(map(tag_of, keys))
            self._rung.set()

    async def listen(self) -> None:
        """Runs until cancelled. A connection that is lost is made anew."""
        while True:
            try:
                async with own_connection(self._engine) as conn:
                    await self._listen(conn)
            except Exception as error:
                log.warning("nobody else is heard, looking by turns", error=str(error) or repr(error))
            self._waiters.wake_all()
            await asyncio.sleep(_PAUSE)

    async def _listen(self, conn: Connection) -> None:
        await conn.execute(_NAME)
        await conn.execute(_LISTEN)
        await conn.execute(_SAY, [f"{self._name} {_HELLO}"])
        self._waiters.wake_all()
        while True:
            async for told in conn.notifies(timeout=_CHECK):
                self._hear(told.payload)
            async with asyncio.timeout(_PATIENCE):
                await conn.execute("SELECT 1")

    def _hear(self, message: str) -> None:
        sender, _, told = message.partition(" ")
        if sender == self._name:
            return
        if told not in (_HELLO, _HERE):
            self._waiters.wake_tags(told[at : at + 8] for at in range(0, len(told), 8))
            return
        if told == _HELLO or not self._others:
            self._greets = True
            self._rung.set()
        self._others = True
        self._waiters.wake_all()

    async def tell(self) -> None:
        """Runs until cancelled. What is rung while it tells shares the next message."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            greets, self._greets = self._greets, False
            moved, self._moved = self._moved, set()
            try:
                await self._tell([_HERE] if greets else [], sorted(moved))
            except Exception as error:
                log.debug("cannot tell the others, trying again", error=repr(error))
                self._greets |= greets
                self._moved |= moved
                self._rung.set()
                await asyncio.sleep(_PAUSE)

    async def _tell(self, messages: list[str], tags: list[str]) -> None:
        messages += ["".join(tags[at : at + _TAGS]) for at in range(0, len(tags), _TAGS)]
        async with raw_connection(self._engine) as conn:
            for message in messages:
                await conn.execute(_SAY, [f"{self._name} {message}"])
            await conn.commit()
