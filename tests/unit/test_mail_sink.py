"""The embedded mail server keeps what it is given, whoever it is for, and asks nobody for anything."""

import asyncio
import socket
from email.message import EmailMessage
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiosmtplib
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    inbox = mail.Maildir(maildir)
    server = await asyncio.get_running_loop().create_server(lambda: mail.MailSession(inbox), "127.0.0.1", 0)
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


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        self.answers = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.answers += data

    def close(self) -> None:
        self.closed = True


lines = st.lists(st.text(st.sampled_from(".a \r\n"), max_size=8), max_size=8).map("\r\n".join)


@given(st.lists(lines, min_size=1, max_size=3), st.data())
def test_mails_are_kept_as_they_came_however_they_came(texts: list[str], data: st.DataObject) -> None:
    """In pieces, or many at once: a dot is no end within a line, and a line that begins with one keeps it."""
    said = b"EHLO here\r\n"
    for text in texts:
        stuffed = f"\r\n{text}\r\n".replace("\r\n.", "\r\n..").removeprefix("\r\n")
        said += f"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n{stuffed}.\r\n".encode()
    said += b"QUIT\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=6)))
    with TemporaryDirectory() as folder:
        session, wire = mail.MailSession(mail.Maildir(Path(folder))), Wire()
        session.connection_made(wire)
        for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
            session.data_received(said[begin:end])
        kept = [file.read_bytes() for file in sorted((Path(folder) / "new").iterdir())]
        assert not list((Path(folder) / "tmp").iterdir())
    envelope = b"X-MailFrom: a@x\nX-RcptTo: b@x\n"
    assert kept == [envelope + f"{text}\r\n".encode().replace(b"\r\n", b"\n") for text in texts]
    codes = [line[:3] for line in wire.answers.splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"250", *[b"250", b"250", b"354", b"250"] * len(texts), b"221"]
    assert wire.closed


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ("RCPT TO:<b@x>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:<a@x>|MAIL FROM:<a@x>", "250 503"),
        ("MAIL FROM:<a@x>|DATA", "250 503"),
        ("MAIL FROM:<a@x>|RSET|RCPT TO:<b@x>", "250 250 503"),
        ("MAIL FROM:a@x", "501"),
        ("MAIL FROM:<>|RCPT TO:<>", "250 501"),
        ('MAIL FROM:<> SIZE=1 BODY=8BITMIME|RCPT TO:<"b c"@x>', "250 250"),
        ("mail from:<a@x>|rcpt to:<b@x>", "250 250"),
        ("TURN|NOOP|VRFY b|HELO x", "500 250 252 250"),
        ("x" * (mail.LONGEST_LINE + 3), "421"),
    ],
)
def test_what_comes_out_of_turn_is_refused(tmp_path: Path, said: str, codes: str) -> None:
    session, wire = mail.MailSession(mail.Maildir(tmp_path)), Wire()
    session.connection_made(wire)
    session.data_received(said.replace("|", "\r\n").encode() + b"\r\n" * (len(said) < mail.LONGEST_LINE))
    assert [line[:3].decode() for line in wire.answers.splitlines()] == ["220", *codes.split()]
    assert wire.closed == (codes == "421")
