"""The embedded mail server keeps what it is given, whoever it is for, and asks nobody for anything."""

import asyncio
import socket
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from choreo.embedded import mail


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where this process connects to, and what names it looks up."""
    found: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connected(self: socket.socket, address: Any) -> None:
        found.append(address)
        connect(self, address)

    def looked_up(*name: Any, **more: Any) -> Any:
        found.append(name)
        return look_up(*name, **more)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return found


@pytest.mark.parametrize(
    "recipient", ["ada@example.com", "root@localhost", "ada%example.com@relay.example", "ada@[192.0.2.1]"]
)
async def test_the_sink_relays_nothing(tmp_path: Path, asked: list[Any], recipient: str) -> None:
    maildir = tmp_path / "mail"
    server = await asyncio.get_running_loop().create_server(lambda: mail.session(maildir), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "mallory@evil.example", "ada@example.com", "Hello"
    message.set_content("Hello.")
    async with server, aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
        assert asked, "as the client did"
        asked.clear()
        await client.send_message(message, recipients=[recipient])
    assert asked == []
    (kept,) = mail.read_maildir(maildir)
    assert (kept["Subject"], kept["X-RcptTo"]) == ("Hello", recipient)
