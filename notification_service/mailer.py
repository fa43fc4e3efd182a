"""Mails what is pending. A side effect hangs on a committed fact, and its outcome is a journaled command.

A notification is leased while it is mailed, by the database's clock. After a crash, or a lease that ran out,
it is mailed again with the same Message-ID; the first outcome that is recorded stands.

Each mail is settled or put off alone, whatever it raised, and what was tried before comes after what was not.
Only where the server takes nobody's mail do all wait together, and none the longer for it.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_string, policy
from email.headerregistry import Address
from email.message import EmailMessage
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import structlog
from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.connection import Connection, raw_connection
from choreo.chassis.observe.health import Job
from choreo.chassis.transaction.inputs import Decided, Failed, Overloaded, Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.message.envelope import Cause, derived_id
from notification_service.commands import RecordDelivery
from notification_service.state import Notifications

SENDER = Address("The Shop", "shop", "choreo.invalid")
CONNECT_TIMEOUT_SECONDS = 10.0
"""Until the server has greeted us and taken our name."""
MAIL_TIMEOUT_SECONDS = 10.0
"""For a mail that is tried for the first time. Each time it gets so much more, up to the longest."""
LONGEST_MAIL_TIMEOUT_SECONDS = 25.0
RECORD_TIMEOUT_SECONDS = 20.0
"""After that an outcome is kept with its lease, to be recorded later."""
DATABASE_TIMEOUT_SECONDS = 5.0
_AT_ONCE = 100
_LEASE = timedelta(seconds=10)
"""So long waits what was being mailed when its mailer died. Renewed while it is alive."""
_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 1.0
_LONGEST_SERVER_PAUSE_SECONDS = 8.0
_LONGEST_PAUSE = timedelta(minutes=5)

_TAKE = """/* leases.take: pending mails with a known address that nobody is mailing, the least tried first */
WITH due AS (
    SELECT notifications.id FROM notifications
    JOIN recipients USING (user_id)
    LEFT JOIN leases ON leases.notification_id = notifications.id
    WHERE status = 'pending' AND coalesce(leased_until < clock_timestamp(), true)
    ORDER BY coalesce(attempts, 0), created_at LIMIT %(limit)s
    FOR NO KEY UPDATE OF notifications SKIP LOCKED
), taken AS (
    INSERT INTO leases (notification_id, leased_until, attempts)
    SELECT id, clock_timestamp() + %(time)s, 1 FROM due
    ON CONFLICT (notification_id) DO UPDATE
    SET leased_until = excluded.leased_until, attempts = leases.attempts + 1
    WHERE leases.leased_until < clock_timestamp()
    RETURNING notification_id, attempts, delivered
)
SELECT id, user_id, email, subject, text, event_id, correlation_id, trace_id, attempts, delivered
FROM taken JOIN notifications ON id = notification_id JOIN recipients USING (user_id)
ORDER BY attempts, created_at"""

_UNLOCKED = """WITH unlocked AS (
    SELECT notification_id FROM leases WHERE notification_id = ANY(%b::uuid[]) FOR UPDATE SKIP LOCKED
)"""
"""Whoever locks several waits for none of them. One that is locked is being dropped."""

_HOLD = f"""/* leases.hold: nobody else takes these meanwhile */ {_UNLOCKED}
UPDATE leases SET leased_until = clock_timestamp() + %s
FROM unlocked WHERE leases.notification_id = unlocked.notification_id"""

_LET_GO = f"""/* leases.let_go: these were not tried */ {_UNLOCKED}
UPDATE leases SET leased_until = clock_timestamp(), attempts = attempts - 1
FROM unlocked WHERE leases.notification_id = unlocked.notification_id"""

_PUT_OFF = """/* leases.put_off: nobody takes it before then */
UPDATE leases SET leased_until = clock_timestamp() + %s, delivered = %s WHERE notification_id = %s"""

_DROP = """/* leases.drop: the outcome is recorded in the same transaction */
DELETE FROM leases WHERE notification_id = %s"""

log = structlog.get_logger()


class ServerAway(Exception):
    """The mail server takes nobody's mail. The message says what it does instead."""


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
    delivered: bool | None
    """What the server said to it, where that could not be recorded yet."""

    @property
    def cause(self) -> Cause:
        return Cause(self.event_id, self.correlation_id, self.trace_id, is_event=True)

    @property
    def timeout_seconds(self) -> float:
        return min(MAIL_TIMEOUT_SECONDS * self.attempts, LONGEST_MAIL_TIMEOUT_SECONDS)

    @property
    def pause(self) -> timedelta:
        """Until it is tried again."""
        return min(timedelta(seconds=2.0 ** min(self.attempts, 10)), _LONGEST_PAUSE)

    def message(self) -> EmailMessage:
        """Raises, whatever that may be, where no message can name the address as it is."""
        message = EmailMessage()
        message["From"] = SENDER
        message["To"] = _recipient(self.email)
        message["Subject"] = self.subject
        message["Message-ID"] = f"<{self.id}@choreo.invalid>"
        message.set_content(self.text)
        return message


@lru_cache(maxsize=10_000)
def _recipient(email: str) -> Address:
    """Raises, whatever that may be, where whoever reads the message would read another address."""
    local, _, domain = email.rpartition("@")
    address = Address(username=local, domain=domain)
    message = EmailMessage()
    message["To"] = address
    read = message_from_string(message.as_string(policy=policy.SMTPUTF8), policy=policy.default)
    if [one.addr_spec for one in read["To"].addresses] != [email]:
        raise ValueError(f"a message would name {read['To']}")
    return address


class Mailer:
    def __init__(self, kernel: Kernel[Notifications], engine: AsyncEngine, smtp_url: str, job: Job) -> None:
        self._kernel = kernel
        self._engine = engine
        self._job = job
        self._server = _Server(smtp_url)
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled. A mail server or database away is waited out."""
        while True:
            try:
                self._woken.clear()
                mails = await self._take()
                if mails:
                    self._job.has(len(mails))
                    await self._mail(mails)
                else:
                    self._job.got_on()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL_SECONDS):
                            await self._woken.wait()
            except ServerAway as away:
                self._say(f"the mail server {away}")
                await asyncio.sleep(self._server.next_pause_seconds())
            except Exception as error:
                log.warning("mail trouble, trying again", error=str(error) or repr(error))
                self._say(f"what is to be mailed cannot be read: {type(error).__name__}")
                await asyncio.sleep(_PAUSE_SECONDS)

    def _say(self, trouble: str) -> None:
        if trouble != self._job.state.cause:
            log.warning("mails wait", detail=trouble)
        self._job.held_up(trouble)

    async def _take(self) -> Sequence[Mail]:
        async with (
            asyncio.timeout(DATABASE_TIMEOUT_SECONDS),
            raw_connection(self._engine) as conn,
            conn.cursor(row_factory=class_row(Mail)) as cursor,
        ):
            await cursor.execute(_TAKE, {"time": _LEASE, "limit": _AT_ONCE})
            mails = await cursor.fetchall()
            await conn.commit()
            return mails

    async def _mail(self, mails: Sequence[Mail]) -> None:
        """Settles each or puts it off. Raises `ServerAway`, and then lets go of those it has not tried."""
        leased = {mail.id for mail in mails}
        finishing: list[asyncio.Future[None]] = []
        holding = asyncio.ensure_future(self._hold(leased))
        try:
            for mail in mails:
                delivered = await self._deliver(mail)
                finishing.append(asyncio.ensure_future(self._finish(mail, delivered, leased)))
            await self._server.quit()
            await _ended(finishing)
        finally:
            self._server.close()
            try:
                await _ended(finishing)  # also when told to stop: what was sent is not to be sent again
            finally:
                holding.cancel()
            if leased:
                await self._update(_LET_GO, [list(leased)])

    async def _deliver(self, mail: Mail) -> bool | None:
        """Whether it was taken; None where it may be taken later. Raises `ServerAway`."""
        if mail.delivered is not None:
            return mail.delivered
        try:
            message = mail.message()
        except Exception as error:
            log.warning("no mail can be made of it", notification=str(mail.id), error=repr(error))
            return False
        try:
            return await self._server.take(message, mail.email, mail.timeout_seconds)
        except ServerAway:
            raise
        except Exception as error:
            log.warning("a mail is put off", notification=str(mail.id), error=repr(error))
            self._server.close()  # who knows what it would answer to next
            return None

    async def _finish(self, mail: Mail, delivered: bool | None, leased: set[UUID]) -> None:
        """Records what became of it, or leaves it for later."""
        try:
            if delivered is None:
                await self._put_off(mail, None)
            elif not await self._record(mail, delivered):
                await self._keep(mail, delivered)
        except Exception as error:
            log.warning("a mail cannot be put off", notification=str(mail.id), error=repr(error))
        leased.discard(mail.id)
        self._job.got_on(len(leased))

    async def _record(self, mail: Mail, delivered: bool) -> bool:
        """Whether it could be."""
        command = RecordDelivery(
            cause=mail.cause, user_id=mail.user_id, notification_id=mail.id, delivered=delivered
        )

        async def drop_lease(conn: Connection, _: Decided) -> None:
            await conn.execute(_DROP, [mail.id])

        id = derived_id("delivery", mail.id)
        try:
            async with asyncio.timeout(RECORD_TIMEOUT_SECONDS):
                while True:
                    try:
                        await self._kernel.ask(command, id=id, side_write=drop_lease)
                        return True
                    except (Unavailable, Overloaded):
                        await asyncio.sleep(_PAUSE_SECONDS)
        except (Failed, TimeoutError):
            return False

    async def _keep(self, mail: Mail, delivered: bool) -> None:
        """It is not mailed again because its outcome cannot be recorded. Waits for the database."""
        while True:
            try:
                return await self._put_off(mail, delivered)
            except Exception as error:
                log.debug("what became of a mail cannot be kept", error=repr(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _put_off(self, mail: Mail, delivered: bool | None) -> None:
        await self._update(_PUT_OFF, [mail.pause, delivered, mail.id])

    async def _hold(self, leased: Collection[UUID]) -> None:
        """Runs until cancelled. Nobody else takes what is being mailed, however slow the server is."""
        while True:
            await asyncio.sleep(_LEASE.total_seconds() / 3)
            try:
                await self._update(_HOLD, [list(leased), _LEASE])
            except Exception as error:
                log.warning("cannot hold what is being mailed", error=str(error) or repr(error))

    async def _update(self, statement: str, values: Sequence[object]) -> None:
        async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS), raw_connection(self._engine) as conn:
            await conn.execute(statement.encode(), values)
            await conn.commit()


async def _ended(tasks: Collection["asyncio.Future[None]"]) -> None:
    """Whoever is told to stop waiting leaves them running."""
    if tasks:
        await asyncio.wait(tasks)


class _Server:
    """One connection at a time, made when there is a mail for it."""

    def __init__(self, url: str) -> None:
        self._how = _server(url)
        self._connection: aiosmtplib.SMTP | None = None
        self._pause_seconds = _PAUSE_SECONDS

    def next_pause_seconds(self) -> float:
        """Longer each time, until it says something of a mail again."""
        pause, self._pause_seconds = self._pause_seconds, 2 * self._pause_seconds
        return min(pause, _LONGEST_SERVER_PAUSE_SECONDS)

    async def take(self, message: EmailMessage, recipient: str, timeout_seconds: float) -> bool | None:
        """Whether it does; None where it may later.

        Raises `ServerAway` before anything is said of this mail, and whatever else there is where that is
        this mail's trouble: then the connection is to be closed.
        """
        connection = await self._connected()
        try:
            async with asyncio.timeout(timeout_seconds):
                await connection.send_message(message, sender=SENDER.addr_spec, recipients=[recipient])
            taken: bool | None = True
        except (aiosmtplib.SMTPNotSupported, ValueError):
            taken = False  # an address that this server, or any, cannot be told
        except aiosmtplib.SMTPSenderRefused as answer:
            if answer.code < 500:  # it would refuse us the next mail as well
                raise ServerAway(f"answers {answer.code} {answer.message}") from answer
            taken = False
        except aiosmtplib.SMTPRecipientsRefused as refused:
            taken = _verdict(refused.recipients[0])
        except aiosmtplib.SMTPResponseException as answer:
            taken = _verdict(answer)
        self._pause_seconds = _PAUSE_SECONDS
        return taken

    async def _connected(self) -> aiosmtplib.SMTP:
        if self._connection is None or not self._connection.is_connected:
            self._connection = aiosmtplib.SMTP(**self._how, timeout=LONGEST_MAIL_TIMEOUT_SECONDS)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._connection.connect()
            except TimeoutError:
                self.close()
                raise ServerAway(f"does not answer within {CONNECT_TIMEOUT_SECONDS:g} s") from None
            except (aiosmtplib.SMTPException, OSError) as error:
                self.close()
                raise ServerAway(f"cannot be reached: {str(error) or repr(error)}") from error
        return self._connection

    async def quit(self) -> None:
        if self._connection:
            with suppress(Exception):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._connection.quit()

    def close(self) -> None:
        """Without a word: a server that is silent would keep us."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _verdict(answer: aiosmtplib.SMTPResponseException) -> bool | None:
    """Of this mail alone. Raises the answer where it says more than that, or nothing."""
    if answer.code == 421 or not 400 <= answer.code < 600:
        raise answer
    return False if answer.code >= 500 else None


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
