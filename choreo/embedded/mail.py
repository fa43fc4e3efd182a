"""A mail server that delivers everything to one Maildir and nothing to anybody.

python -m choreo.embedded.mail --host 127.0.0.1 --port 8025 --maildir mail
"""

import argparse
import asyncio
import email.policy
import signal
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP

Session = Callable[[Path], SMTP]
"""Makes the server's side of a connection, for this Maildir."""


def session(maildir: Path) -> SMTP:
    return SMTP(Mailbox(maildir), enable_SMTPUTF8=True, loop=asyncio.get_running_loop())


async def serve(host: str, port: int, maildir: Path, session: Session) -> None:
    """Until SIGTERM or SIGINT. A message is on disk before it is acknowledged."""
    maildir.parent.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: session(maildir), host, port)
    await stopped.wait()
    server.close()


def read_maildir(maildir: Path) -> list[EmailMessage]:
    """Everything delivered so far, oldest first; empty if nothing ever was."""
    files = sorted((maildir / "new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


def main(session: Session = session) -> None:
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--maildir", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port, arguments.maildir, session))


if __name__ == "__main__":
    main()
