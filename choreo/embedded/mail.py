"""A mail server for development: it delivers everything to one Maildir and nothing to anybody.

python -m choreo.embedded.mail --host 127.0.0.1 --port 8025 --maildir mail
"""

import argparse
import asyncio
import email.policy
import itertools
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import cast

import uvloop

LONGEST_LINE = 4096
"""Bytes of a command."""
LARGEST_MAIL = 32 * 1024 * 1024
"""Bytes, as they are sent."""
_END = b"\r\n.\r\n"
_PATH = re.compile(rb':[ ]?<((?:"(?:[^"\\\x00-\x1f]|\\[ -~])*"|[^<>"\x00-\x20])*)>(?: [^\x00-\x1f]*)?')
"""An address, and parameters, of which none matters here."""


class Maildir:
    """Puts each mail into a file of its own, with one write."""

    _numbers = itertools.count()
    _end = f"{os.getpid()}.{socket.gethostname().replace('/', '_')}"

    def __init__(self, path: Path) -> None:
        for part in ("tmp", "new", "cur"):
            (path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._written, self._kept = f"{path / 'tmp'}/", f"{path / 'new'}/"

    def add(self, content: bytes) -> None:
        """Returns when whoever looks finds the whole mail, which outlives this process. What the machine has
        not written when it loses power is lost: nothing waits for the disk. Raises OSError.
        """
        name = f"{time.time_ns()}.{next(self._numbers):08}.{self._end}"
        written = self._written + name
        file = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if os.write(file, content) < len(content):
                raise OSError("there is no room for all of it")
            os.rename(written, self._kept + name)
        except OSError:
            os.unlink(written)
            raise
        finally:
            os.close(file)


class MailSession(asyncio.Protocol):
    """The server's side of a connection: RFC 5321, with PIPELINING (RFC 2920), 8BITMIME, SIZE, SMTPUTF8.

    Takes mail of everybody for everybody. A mail is found by its end, not line by line, and what has come
    together is answered together.
    """

    _transport: asyncio.Transport

    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir
        self._came = bytearray()
        self._looked_at = 0
        """Up to here there is no end of the mail."""
        self._in_mail = False
        self._sender: bytes | None = None
        self._recipients: list[bytes] = []

    def understands_utf8(self) -> bool:
        return True

    def refusal(self, recipient: str) -> bytes | None:
        """What a recipient is refused with, if it is."""
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(b"220 choreo mail sink, nothing goes on from here\r\n")

    def data_received(self, data: bytes) -> None:
        self._came += data
        answers: list[bytes] = []
        while answer := self._mail() if self._in_mail else self._command():
            answers.append(answer)
            if answer.startswith((b"221", b"421")):
                self._transport.write(_lines(answers))
                return self._transport.close()
        if answers:
            self._transport.write(_lines(answers))
        return None

    def _mail(self) -> bytes | None:
        """The answer to a mail. None while not all of it has come."""
        end = self._came.find(_END, self._looked_at)
        if end < 0:
            self._looked_at = max(0, len(self._came) - len(_END))
            return b"421 4.3.4 too much for one mail" if len(self._came) > LARGEST_MAIL else None
        # It begins with the end of the line DATA, so that its own first line is one like all others.
        content = bytes(self._came[: end + 2]).replace(b"\r\n.", b"\r\n")[2:]
        del self._came[: end + len(_END)]
        self._in_mail = False
        envelope = b"X-MailFrom: %b\r\nX-RcptTo: %b\r\n" % (self._sender or b"", b", ".join(self._recipients))
        self._reset()
        try:
            self._maildir.add((envelope + content).replace(b"\r\n", b"\n"))
        except OSError as error:
            return f"452 4.3.1 it cannot be kept: {error.strerror or error}".encode()
        return b"250 2.0.0 kept"

    def _command(self) -> bytes | None:
        """The answer to a command. None while not all of it has come."""
        end = self._came.find(b"\n")
        if end < 0:
            return b"421 5.5.6 too long a line" if len(self._came) > LONGEST_LINE else None
        line = bytes(self._came[:end]).rstrip(b"\r")
        del self._came[: end + 1]
        verb, _, argument = line.partition(b" ")
        match verb.upper():
            case b"EHLO":
                return self._hello()
            case b"HELO":
                self._reset()
                return b"250 choreo"
            case b"MAIL":
                return self._from(argument)
            case b"RCPT":
                return self._to(argument)
            case b"DATA":
                return self._data()
            case b"RSET":
                self._reset()
                return b"250 2.0.0 forgotten"
            case b"NOOP":
                return b"250 2.0.0 as you say"
            case b"VRFY":
                return b"252 2.0.0 everybody is known here"
            case b"QUIT":
                return b"221 2.0.0 farewell"
        return b"500 5.5.2 no command of this server"

    def _hello(self) -> bytes:
        self._reset()
        says = [b"choreo", b"SIZE %d" % LARGEST_MAIL, b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES"]
        if self.understands_utf8():
            says.append(b"SMTPUTF8")
        return b"\r\n".join([*(b"250-" + line for line in says[:-1]), b"250 " + says[-1]])

    def _from(self, argument: bytes) -> bytes:
        if self._sender is not None:
            return b"503 5.5.1 a mail has begun"
        found = _PATH.fullmatch(argument, 4)
        if not found or argument[:4].upper() != b"FROM":
            return b"501 5.5.4 MAIL FROM:<address>"
        self._sender = found[1]
        return b"250 2.1.0 known"

    def _to(self, argument: bytes) -> bytes:
        if self._sender is None:
            return b"503 5.5.1 MAIL comes first"
        found = _PATH.fullmatch(argument, 2)
        if not found or not found[1] or argument[:2].upper() != b"TO":
            return b"501 5.5.4 RCPT TO:<address>"
        if not (found[1].isascii() or self.understands_utf8()):
            return b"553 5.6.7 no address beyond ASCII"
        if refusal := self.refusal(found[1].decode(errors="replace")):
            return refusal
        self._recipients.append(found[1])
        return b"250 2.1.5 known"

    def _data(self) -> bytes:
        if not self._recipients:
            return b"503 5.5.1 RCPT comes first"
        self._in_mail = True
        self._came[:0] = b"\r\n"
        self._looked_at = 0
        return b"354 until a line with a dot alone"

    def _reset(self) -> None:
        self._sender, self._recipients = None, []


def _lines(answers: Sequence[bytes]) -> bytes:
    return b"\r\n".join([*answers, b""])


Session = Callable[[Maildir], asyncio.Protocol]
"""Makes the server's side of a connection."""


async def serve(host: str, port: int, maildir: Path, session: Session) -> None:
    """Until SIGTERM or SIGINT. A message is in its file before it is acknowledged."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    inbox = Maildir(maildir)
    server = await loop.create_server(lambda: session(inbox), host, port)
    await stopped.wait()
    server.close()


def read_maildir(maildir: Path) -> list[EmailMessage]:
    """Everything delivered so far, oldest first; empty if nothing ever was."""
    files = sorted((maildir / "new").glob("*"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


def main(session: Session = MailSession) -> None:
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--maildir", type=Path, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.host, arguments.port, arguments.maildir, session))


if __name__ == "__main__":
    main()
