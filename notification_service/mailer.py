"""Mails what is pending. A side effect hangs on a committed fact, and its outcome is a journaled command.

A notification is leased while it is mailed. After a crash, or a lease that ran out, it is mailed again with
the same Message-ID; the first outcome that is recorded stands.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import structlog
from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, raw_connection
from choreo.chassis.transaction.inputs import Decided, Failed, Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.envelope import Cause, derived_id
from notification_service.commands import RecordDelivery
from notification_service.state import Notifications

SENDER = "The Shop <shop@choreo.invalid>"
_AT_ONCE = 100
_LEASE = timedelta(seconds=10)
"""So long waits what was being mailed when its mailer died. Renewed while it is alive."""
_POLL = 1.0
_PAUSE = 1.0
_LONGEST_PAUSE = timedelta(minutes=5)

_TAKE = """/* leases.take: the oldest pending mails whose address is known and which nobody is mailing */
WITH due AS (
    SELECT notifications.id FROM notifications
    JOIN recipients USING (user_id)
    LEFT JOIN leases ON leases.notification_id = notifications.id
    WHERE status = 'pending' AND coalesce(leased_until < %(now)s, true)
    ORDER BY created_at LIMIT %(limit)s
), taken AS (
    INSERT INTO leases (notification_id, leased_until, attempts)
    SELECT id, %(until)s, 1 FROM due
    ON CONFLICT (notification_id) DO UPDATE SET leased_until = %(until)s, attempts = leases.attempts + 1
    WHERE leases.leased_until < %(now)s
    RETURNING notification_id, attempts
)
SELECT id, user_id, email, subject, text, event_id, correlation_id, trace_id, attempts
FROM taken JOIN notifications ON id = notification_id JOIN recipients USING (user_id)
ORDER BY created_at"""

_UNTIL = """/* leases.until: nobody takes these before then */
UPDATE leases SET leased_until = %s WHERE notification_id = ANY(%b::uuid[])"""

_DROP = """/* leases.drop: the outcome is recorded in the same transaction */
DELETE FROM leases WHERE notification_id = %s"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mail:
    id: UUID
    user_id: UUID
    email: str
    subject: str
    text: str
    event_id: UUID
    correlation_id: UUID
    trace_id: str
    attempts: int

    @property
    def cause(self) -> Cause:
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)

    def message(self) -> EmailMessage:
        message = EmailMessage()
        message["From"] = SENDER
        message["To"] = self.email
        message["Subject"] = self.subject
        message["Message-ID"] = f"<{self.id}@choreo.invalid>"
        message.set_content(self.text)
        return message


class Mailer:
    def __init__(
        self,
        kernel: Kernel[Notifications],
        engine: AsyncEngine,
        smtp_url: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._server = _server(smtp_url)
        self._clock = clock
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """Runs until cancelled. A mail server or database away is waited out."""
        while True:
            try:
                self._news.clear()
                mails = await self._take()
                if mails:
                    await self._mail(mails)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL):
                            await self._news.wait()
            except Exception as error:
                log.warning("mail trouble, trying again", error=str(error) or repr(error))
                await asyncio.sleep(_PAUSE)

    async def _take(self) -> Sequence[Mail]:
        now = self._clock()
        async with raw_connection(self._engine) as conn, conn.cursor(row_factory=class_row(Mail)) as cursor:
            await cursor.execute(_TAKE, {"now": now, "until": now + _LEASE, "limit": _AT_ONCE})
            mails = await cursor.fetchall()
            await conn.commit()
            return mails

    async def _mail(self, mails: Sequence[Mail]) -> None:
        """Sends over one connection, records all outcomes together; whatever is not settled is put off."""
        settled: dict[UUID, bool] = {}
        server = aiosmtplib.SMTP(**self._server)
        holding = asyncio.ensure_future(self._hold(mails))
        try:
            await server.connect()
            for mail in mails:
                delivered = await self._deliver(server, mail)
                if delivered is not None:
                    settled[mail.id] = delivered
            await server.quit()
        except (aiosmtplib.SMTPException, OSError) as error:
            log.warning("the mail server is away, trying again", error=str(error) or repr(error))
        finally:  # also when told to stop: what was sent is not to be sent again
            server.close()  # without a word: a server that is silent would keep us for a minute
            await asyncio.gather(
                *(self._record(mail, settled[mail.id]) for mail in mails if mail.id in settled)
            )
            holding.cancel()
            await asyncio.wait([holding])
            unsettled = [mail for mail in mails if mail.id not in settled]
            if unsettled:
                await self._put_off(unsettled)

    async def _deliver(self, server: aiosmtplib.SMTP, mail: Mail) -> bool | None:
        """Whether it was taken; None where it may be taken later."""
        try:
            await server.send_message(mail.message())
            return True
        except aiosmtplib.SMTPRecipientsRefused as refused:
            codes = [recipient.code for recipient in refused.recipients]
            return False if all(code >= 500 for code in codes) else None
        except aiosmtplib.SMTPResponseException as answer:
            return False if answer.code >= 500 else None
        except (ValueError, UnicodeError):
            return False  # an address no message can carry

    async def _record(self, mail: Mail, delivered: bool) -> None:
        command = RecordDelivery(
            cause=mail.cause, user_id=mail.user_id, notification_id=mail.id, delivered=delivered
        )

        async def drop_lease(conn: Connection, _: Decided) -> None:
            await conn.execute(_DROP, [mail.id])

        while True:
            try:
                id = derived_id("delivery", mail.id)
                await self._kernel.ask(command, id=id, side_write=drop_lease)
                return
            except Unavailable:
                await asyncio.sleep(_PAUSE)
            except Failed:
                return  # logged there; its lease runs out and it is mailed again

    async def _put_off(self, mails: Sequence[Mail]) -> None:
        attempts = max(mail.attempts for mail in mails)
        pause = min(timedelta(seconds=2.0 ** min(attempts, 10)), _LONGEST_PAUSE)
        await self._lease(mails, self._clock() + pause)

    async def _hold(self, mails: Sequence[Mail]) -> None:
        """Runs until cancelled. Nobody else takes what is being mailed, however slow the server is."""
        while True:
            await asyncio.sleep(_LEASE.total_seconds() / 3)
            try:
                await self._lease(mails, self._clock() + _LEASE)
            except Exception as error:
                log.warning("cannot hold what is being mailed", error=str(error) or repr(error))

    async def _lease(self, mails: Sequence[Mail], until: datetime) -> None:
        async with raw_connection(self._engine) as conn:
            await conn.execute(_UNTIL, [until, [mail.id for mail in mails]])
            await conn.commit()


def _server(url: str) -> dict[str, Any]:
    """`smtp://[user:password@]host[:port]`, or `smtps://` for TLS from the first byte."""
    parts = urlsplit(url)
    return {
        "hostname": parts.hostname,
        "port": parts.port,
        "use_tls": parts.scheme == "smtps",
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }
