"""Commit notifications: the processes of a service tell each other which keys a commit moved.

They use Postgres' NOTIFY, after the commit and in a transaction of its own: a commit that notifies holds a
lock of the whole server until it is on the disk, so in the kernel's transaction it would make all services
queue. A process that is killed between the two costs a waiter elsewhere its wake, and the shop no fact. As
long as no other process listens, none is sent.
"""

import asyncio
from collections.abc import Iterable
from uuid import uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, own_connection, raw_connection
from choreo.chassis.waiting.waiters import Waiters, tag_of

_NAME = "SET application_name = 'commit_notifications'"
_LISTEN = "/* commit_notifications.listen */ LISTEN keys_moved"

_SEND = """/* commit_notifications.send: what is lost in a crash, a waiter outlives */
SELECT set_config('synchronous_commit', 'off', true), pg_notify('keys_moved', %s)"""

_NOTIFY = """/* commit_notifications.notify: sent when this transaction is committed */
SELECT pg_notify('keys_moved', %s)"""

_TAGS = 900
"""Tags of 8 characters, in a message that must have less than 8000."""
_CHECK = 15.0
"""Seconds of silence after which the connection has to show that it is one."""
_CHECK_TIMEOUT_SECONDS = 5.0
_PAUSE = 1.0
_NOBODY = "-"
_HELLO, _HERE = "hello", "here"

log = structlog.get_logger()


async def notify(conn: Connection, key: str) -> None:
    """Sends the notification with the caller's transaction, for tools that are no process of the service."""
    await conn.execute(_NOTIFY, [f"{_NOBODY} {tag_of(key)}"])


class CommitNotifications:
    """What one process sends and receives: `listen` and `tell` run as long as the process does.

    A process that begins to listen says hello. One that hears a hello, or the answer to its own, sends from
    then on, and answers: whoever waits elsewhere then looks for what was committed before. While the
    listening connection is away, whoever waits here looks once a second.
    """

    def __init__(self, engine: AsyncEngine, waiters: Waiters) -> None:
        self._engine = engine
        self._waiters = waiters
        self._name = uuid4().hex
        self._others = False
        self._greets = False
        self._moved: set[str] = set()
        self._to_send = asyncio.Event()

    def notify(self, keys: Iterable[str]) -> None:
        """Is to be called after a commit that moved these keys."""
        if self._others:
            self._moved.update(map(tag_of, keys))
            self._to_send.set()

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
        await conn.execute(_SEND, [f"{self._name} {_HELLO}"])
        self._waiters.wake_all()
        while True:
            async for told in conn.notifies(timeout=_CHECK):
                self._hear(told.payload)
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
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
            self._to_send.set()
        self._others = True
        self._waiters.wake_all()

    async def tell(self) -> None:
        """Runs until cancelled. What is moved while it sends shares the next message."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            greets, self._greets = self._greets, False
            moved, self._moved = self._moved, set()
            try:
                await self._tell([_HERE] if greets else [], sorted(moved))
            except Exception as error:
                log.debug("cannot tell the others, trying again", error=repr(error))
                self._greets |= greets
                self._moved |= moved
                self._to_send.set()
                await asyncio.sleep(_PAUSE)

    async def _tell(self, messages: list[str], tags: list[str]) -> None:
        messages += ["".join(tags[at : at + _TAGS]) for at in range(0, len(tags), _TAGS)]
        async with raw_connection(self._engine) as conn:
            for message in messages:
                await conn.execute(_SEND, [f"{self._name} {message}"])
            await conn.commit()
