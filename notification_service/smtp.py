"""Hands mails to the mail server over a few connections, which are kept while mails come.

aiosmtplib makes a connection: names, TLS, EHLO, login. It says one thing at a time, so the mails are ours:
where the server offers PIPELINING (RFC 2920), all that comes before a mail's content is said in one go.
Two mails never share a write: whatever the server does, it is clear which of them it did it to.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import aiosmtplib
from aiosmtplib.email import quote_address

from notification_service.letters import SENDER, is_plain

CONNECTIONS = 4
"""At most."""
CONNECT_TIMEOUT_SECONDS = 10.0
"""Until the server has greeted us and taken our name."""
KEPT_SECONDS = 5.0
"""So long a connection is kept without a mail for it."""
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0
_PARTING_TIMEOUT_SECONDS = 1.0
"""For what is said when a mail's fate is settled: RSET and QUIT."""
_LONGEST_ANSWER = 64 * 1024
"""Bytes that came and were not read."""
_END = b".\r\n"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXTENSIONS = ("pipelining", "8bitmime", "size", "smtputf8")
_FINE = ({250}, {250, 251}, {354})
"""What MAIL, RCPT and DATA are answered with."""


class ServerAway(Exception):
    """The mail server takes nobody's mail. The message says what it does instead."""


class Worn(Exception):
    """This connection takes no further mail, and nothing was said of this one: another may take it."""


class Unexpected(Exception):
    """An answer that says more than that of a mail, or nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    """-1 of what is none."""
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True)
class _Refusal:
    answer: Answer
    unread: int
    """So many answers are still to come."""


class Server:
    """Its connections, each made when there is a mail for it and no other is free."""

    def __init__(self, url: str) -> None:
        self.most = CONNECTIONS
        """So many connections at once; fewer where the server wants no more."""
        self._how = _server(url)
        self._sessions: list[Session] = []
        self._free: list[Session] = []
        self._pause_seconds = PAUSE_SECONDS

    def next_pause_seconds(self) -> float:
        """Longer each time, until it says something of a mail again."""
        pause, self._pause_seconds = self._pause_seconds, 2 * self._pause_seconds
        return min(pause, LONGEST_PAUSE_SECONDS)

    async def session(self) -> "Session | None":
        """One that nobody uses, or a new one; to be given back. None where the server wants no more than
        there are. Raises `ServerAway`.
        """
        while self._free:
            session = self._free.pop()
            if session.is_usable:
                return session
            session.close()
        self._forget_closed()
        if not self._sessions:
            self.most = CONNECTIONS
        try:
            session = await _connect(self._how)
        except ServerAway:
            self._forget_closed()
            if not self._sessions:
                raise
            self.most = len(self._sessions)
            return None
        self._sessions.append(session)
        return session

    def give_back(self, session: "Session") -> None:
        """One that takes no further mail is closed."""
        if session.is_usable:
            session.free_since = time.monotonic()
            self._free.append(session)
        else:
            session.close()

    async def take(
        self, session: "Session", letter: bytes, recipient: str, timeout_seconds: float
    ) -> bool | None:
        """Whether it does; None where it may later.

        Raises `ServerAway` or `Worn` before anything is said of this mail, and whatever else there is where
        that is this mail's trouble. After each of them the connection is to be closed.
        """
        try:
            commands = _commands(letter, recipient, session.offers)
        except ValueError:
            return False  # an address that this server, or any, cannot be told
        async with asyncio.timeout(timeout_seconds):
            refusal = await session.begin(commands)
            answer = refusal.answer if refusal else await session.send(letter)
        taken = True if not refusal and answer.code == 250 else _refused(answer)
        if refusal and not await session.forget(refusal.unread):
            session.close()
        self._pause_seconds = PAUSE_SECONDS
        return taken

    async def quit(self, unused_for_seconds: float = 0.0) -> None:
        """Ends the connections that nobody uses, and has not for so long."""
        since = time.monotonic() - unused_for_seconds
        leaving = [session for session in self._free if session.free_since <= since]
        self._free = [session for session in self._free if session.free_since > since]
        await asyncio.gather(*(session.quit() for session in leaving))

    def _forget_closed(self) -> None:
        self._sessions = [session for session in self._sessions if session.is_open]


async def _connect(how: Mapping[str, Any]) -> "Session":
    """Raises `ServerAway`."""
    connection = aiosmtplib.SMTP(**how, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await connection.connect()
            if connection.is_ehlo_or_helo_needed:
                try:
                    await connection.ehlo()
                except aiosmtplib.SMTPHeloError:
                    await connection.helo()
        return Session(connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise ServerAway(f"does not answer within {CONNECT_TIMEOUT_SECONDS:g} s") from None
        if isinstance(error, Exception):
            raise ServerAway(f"cannot be reached: {str(error) or repr(error)}") from error
        raise


class Session(asyncio.Protocol):
    """A connection once the server knows us. An answer that nobody waits for makes it unusable."""

    def __init__(self, connection: aiosmtplib.SMTP) -> None:
        self.offers = frozenset(filter(connection.supports_extension, _EXTENSIONS))
        self.free_since = 0.0
        """By the monotonic clock."""
        self._mails = 0
        """So many were begun."""
        self._transport = cast(asyncio.Transport, connection.transport)
        self._transport.set_protocol(self)
        self._came = bytearray()
        self._lines: list[str] = []
        """Of an answer that is not complete."""
        self._answers: deque[Answer] = deque()
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """For another mail."""
        return self.is_open and not (self._came or self._lines or self._answers)

    async def begin(self, commands: Sequence[bytes]) -> _Refusal | None:
        """MAIL, RCPT and DATA, up to what is refused. Raises `ServerAway` or `Worn` where MAIL is."""
        self._mails += 1
        pipelined = "pipelining" in self.offers
        if pipelined:
            self._transport.write(b"".join(commands))
        for number, (command, fine) in enumerate(zip(commands, _FINE, strict=True)):
            if not pipelined:
                self._transport.write(command)
            answer = await (self._answer() if number else self._answer_to_mail())
            if answer.code not in fine:
                return _Refusal(answer, unread=len(commands) - number - 1 if pipelined else 0)
        return None

    async def _answer_to_mail(self) -> Answer:
        """It says something of the sender, who is always the same. A connection that has served before may
        have served long enough, or may have been closed meanwhile.
        """
        is_first = self._mails == 1
        try:
            answer = await self._answer()
        except ConnectionError as error:
            if is_first:
                raise
            raise Worn from error
        if not is_first and answer.code not in _FINE[0]:
            raise Worn
        if 400 <= answer.code < 500:  # it would refuse us the next mail as well
            raise ServerAway(f"answers {answer}")
        return answer

    async def send(self, letter: bytes) -> Answer:
        self._transport.write(letter)
        return await self._answer()

    async def forget(self, unread: int) -> bool:
        """Whether the server is ready for another mail. One may ask for a mail although it has refused its
        only recipient, and then gets a dot (RFC 2920, 3.1).
        """
        with suppress(Exception):
            async with asyncio.timeout(_PARTING_TIMEOUT_SECONDS):
                for _ in range(unread):
                    if (await self._answer()).code == 354:
                        await self.send(_END)
                self._transport.write(b"RSET\r\n")
                return (await self._answer()).code == 250
        return False

    async def quit(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(_PARTING_TIMEOUT_SECONDS):
                self._transport.write(b"QUIT\r\n")
                await self._answer()
        self.close()

    def close(self) -> None:
        """Without a word."""
        self._transport.close()

    async def _answer(self) -> Answer:
        while not self._answers:
            if self._lost:
                raise ConnectionResetError("the mail server hung up") from self._lost
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._answers.popleft()

    def data_received(self, data: bytes) -> None:
        self._came += data
        *lines, self._came = self._came.split(b"\n")
        for line in lines:
            self._lines.append(line[4:].decode(errors="replace").strip())
            if not line[:3].isdigit():
                self._answers.append(Answer(-1, line.decode(errors="replace").strip()))
            elif line[3:4] != b"-":
                self._answers.append(Answer(int(line[:3]), "\n".join(self._lines)))
            else:
                continue
            self._lines.clear()
        if len(self._came) + sum(map(len, self._lines)) + len(self._answers) > _LONGEST_ANSWER:
            self._transport.abort()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = error or ConnectionResetError("closed")
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def _commands(letter: bytes, recipient: str, offers: Collection[str]) -> list[bytes]:
    """Raises ValueError where the server cannot be told this address."""
    path = f"<{recipient}>" if is_plain(recipient) else quote_address(recipient)
    if _CONTROL.search(path):
        raise ValueError(f"control characters in {recipient!r}")
    parameters = [
        *([f"SIZE={len(letter) - len(_END)}"] if "size" in offers else []),
        *(["BODY=8BITMIME"] if "8bitmime" in offers else []),
        *([] if path.isascii() else ["SMTPUTF8"]),
    ]
    if not path.isascii() and "smtputf8" not in offers:
        raise ValueError(f"the server takes no {recipient!r}")
    mail = " ".join([f"MAIL FROM:<{SENDER.addr_spec}>", *parameters])
    return [f"{mail}\r\n".encode(), f"RCPT TO:{path}\r\n".encode(), b"DATA\r\n"]


def _refused(answer: Answer) -> bool | None:
    """For good (False) or for now. Raises `Unexpected` where it says more than that, or nothing."""
    if answer.code == 421 or not 400 <= answer.code < 600:
        raise Unexpected(str(answer))
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
