"""Mails what is pending. A side effect hangs on a committed fact, and its outcome is a journaled command.

A notification is leased while it is mailed, by the database's clock. After a crash, or a lease that ran out,
it is mailed again with the same Message-ID; the first outcome that is recorded stands.

Each mail is settled or put off alone, whatever it raised, and what was tried before comes after what was not.
Only where the server takes nobody's mail do all wait together, and none the longer for it.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.observe.health import Job
from choreo.chassis.transaction.inputs import Unavailable
from choreo.chassis.transaction.kernel import BATCH, Kernel
from choreo.message.envelope import derived_id
from notification_service.commands import RecordDelivery
from notification_service.leases import AGAIN_AT_ONCE, Leases, Mail
from notification_service.letters import letter
from notification_service.smtp import KEPT_SECONDS, Server, ServerAway, Session, Worn
from notification_service.state import Notifications

RECORD_TIMEOUT_SECONDS = 20.0
"""After that an outcome is kept with its lease, to be recorded later."""
LAST_ANSWER_SECONDS = 1.0
"""So long the server may still answer when we are told to stop."""
_FEW = 50
"""With no more than so many waiting for a connection there is a look for others."""
_UNRECORDED = BATCH
"""With so many outcomes waiting to be recorded nothing is mailed."""
_LINGER_SECONDS = 0.02
"""Between two looks, while mails come one after the other."""
_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class Mailer:
    def __init__(
        self, kernel: Kernel[Notifications], engine: AsyncEngine, smtp_url: str, job: Job, owner: UUID
    ) -> None:
        self._kernel = kernel
        self._job = job
        self._leases = Leases(engine, owner)
        self._server = Server(smtp_url)
        self._woken = asyncio.Event()
        self._first: deque[Mail] = deque()
        """Leased, and not tried before."""
        self._again: deque[Mail] = deque()
        """Leased, and tried before, the least tried first."""
        self._again_at = 0.0
        """Not before then is there a look for those, by the loop's clock."""
        self._sending: set[asyncio.Task[None]] = set()
        """One for each connection in use."""
        self._connecting: asyncio.Task[None] | None = None
        self._at_again = 0
        """So many of them are at a mail that was tried before."""
        self._recording: dict[UUID, asyncio.Task[None]] = {}
        self._away: BaseException | None = None

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled. A mail server or database away is waited out."""
        holding = asyncio.ensure_future(self._leases.hold())
        try:
            while True:
                try:
                    await (self._wait_for_server() if self._away else self._go_on())
                except Exception as error:
                    log.warning("mail trouble, trying again", error=str(error) or repr(error))
                    self._say(f"what is to be mailed cannot be read: {type(error).__name__}")
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            try:
                await self._stop()
            finally:
                holding.cancel()

    def _say(self, trouble: str) -> None:
        if trouble != self._job.state.cause:
            log.warning("mails wait", detail=trouble)
        self._job.held_up(trouble)

    async def _go_on(self) -> None:
        """One look, and what it found is begun. Returns when it is time for another."""
        self._woken.clear()
        await self._look()
        self._send_more()
        await self._server.quit(unused_for_seconds=KEPT_SECONDS)
        await asyncio.sleep(_LINGER_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._woken.wait()

    async def _look(self) -> None:
        """What becomes due is taken while little is in hand. What was tried before has time."""
        now = asyncio.get_running_loop().time()
        has_room = len(self._recording) < _UNRECORDED
        looks_again = has_room and len(self._again) <= _FEW and now >= self._again_at
        first, again = await self._leases.take(first=has_room and len(self._first) <= _FEW, again=looks_again)
        if looks_again and len(again) < AGAIN_AT_ONCE:
            self._again_at = now + _POLL_SECONDS
        self._first += first
        for mail in again:
            if mail.delivered is not None:
                self._settle(mail, mail.delivered)
        unanswered = [mail for mail in again if mail.delivered is None]
        self._again = deque(sorted([*self._again, *unanswered], key=lambda mail: mail.attempts))
        if self._leases.held:
            self._job.has(len(self._leases.held))
        else:
            self._job.got_on()

    def _send_more(self) -> None:
        """One more connection, if there is a mail for it. One is made after the other: the first shows
        whether the server is there.
        """
        if self._queue and not self._connecting and len(self._sending) < self._server.most:
            self._connecting = asyncio.ensure_future(self._send())
            self._sending.add(self._connecting)
            self._connecting.add_done_callback(self._sent)

    @property
    def _queue(self) -> deque[Mail] | None:
        """Where the next mail is. One connection is kept free of what was tried before: it may take long."""
        if self._away or len(self._recording) >= _UNRECORDED:
            return None
        if self._first:
            return self._first
        return self._again if self._again and self._at_again < max(1, self._server.most - 1) else None

    async def _send(self) -> None:
        """Over one connection, until nothing is left for it. Raises `ServerAway`."""
        session: Session | None = None
        try:
            while self._queue:
                if session is None or not session.is_usable:
                    session = await self._server.session()
                    self._connecting = None
                if session is None or not (queue := self._queue):
                    return
                mail = queue.popleft()
                if len(queue) == _FEW:
                    self._woken.set()
                self._send_more()
                try:
                    self._settle(mail, await self._deliver(session, mail))
                except (ServerAway, Worn) as nothing_said:
                    (self._again if mail.attempts > 1 else self._first).appendleft(mail)
                    if isinstance(nothing_said, ServerAway):
                        raise
        finally:
            if session:
                self._server.give_back(session)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._connecting is task:
            self._connecting = None
        if not task.cancelled() and (error := task.exception()):
            self._away = error
            self._woken.set()

    async def _deliver(self, session: Session, mail: Mail) -> bool | None:
        """Whether it was taken; None where it may be taken later. Raises `ServerAway` or `Worn`."""
        try:
            content = letter(
                mail.id, mail.email, mail.subject, mail.text, eight_bit="8bitmime" in session.offers
            )
        except Exception as error:
            log.warning("no mail can be made of it", notification=str(mail.id), error=repr(error))
            return False
        self._at_again += mail.attempts > 1
        try:
            return await self._server.take(session, content, mail.email, mail.timeout_seconds)
        except BaseException as error:
            session.close()  # who knows what it would answer to next
            if isinstance(error, ServerAway | Worn) or not isinstance(error, Exception):
                raise
            log.warning("a mail is put off", notification=str(mail.id), error=repr(error))
            return None
        finally:
            self._at_again -= mail.attempts > 1

    def _settle(self, mail: Mail, delivered: bool | None) -> None:
        """What became of it is recorded beside the mails that follow."""
        if delivered is None:
            self._put_off(mail, None)
            return
        self._recording[mail.id] = asyncio.ensure_future(self._record(mail, delivered))

    async def _record(self, mail: Mail, delivered: bool) -> None:
        if await self._could_record(mail, delivered):
            self._leases.drop(mail)
            self._got_on()
        else:
            self._put_off(mail, delivered)  # it is not mailed again because of that
        if len(self._recording) == _UNRECORDED:
            self._woken.set()
        del self._recording[mail.id]

    async def _could_record(self, mail: Mail, delivered: bool) -> bool:
        command = RecordDelivery(
            cause=mail.cause, user_id=mail.user_id, notification_id=mail.id, delivered=delivered
        )
        id = derived_id("delivery", mail.id)
        try:
            async with asyncio.timeout(RECORD_TIMEOUT_SECONDS):
                while True:
                    try:
                        await self._kernel.ask(command, id=id)
                        return True
                    except Unavailable:
                        await asyncio.sleep(_PAUSE_SECONDS)
        except Exception as error:
            log.debug("what became of a mail is kept", notification=str(mail.id), error=repr(error))
            return False

    def _put_off(self, mail: Mail, delivered: bool | None) -> None:
        self._leases.put_off(mail, delivered)
        self._got_on()
        self._woken.set()

    def _got_on(self) -> None:
        if not self._away:
            self._job.got_on(len(self._leases.held))

    async def _wait_for_server(self) -> None:
        """What nothing was said of goes back, and counts as not tried."""
        self._say(f"the mail server {self._away}")
        await _ended(self._sending)
        await self._server.quit()
        await self._let_go()
        await asyncio.sleep(self._server.next_pause_seconds())
        self._away = None

    async def _let_go(self) -> None:
        """What is not sent."""
        self._first.clear()
        self._again.clear()
        await self._leases.let_go(self._leases.held - self._recording.keys())

    async def _stop(self) -> None:
        """What was sent is not to be sent again: the server may still answer, and that is recorded."""
        self._first.clear()
        self._again.clear()
        await _ended(self._sending, LAST_ANSWER_SECONDS)
        for sending in self._sending:
            sending.cancel()
        await _ended(self._sending)
        for ended in (), self._recording.values():
            await _ended(ended)
            try:
                await self._let_go()
            except Exception as error:
                log.warning("leases have to run out", error=str(error) or repr(error))
        await self._server.quit()


async def _ended(tasks: Collection[asyncio.Task[None]], timeout_seconds: float | None = None) -> None:
    """Whoever is told to stop waiting leaves them running."""
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_seconds)
