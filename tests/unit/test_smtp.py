"""What is said to a mail server, and what becomes of a mail by its answers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from notification_service import smtp
from notification_service.letters import letter
from notification_service.smtp import Server, ServerAway, Session, Worn
from tests.shop import PATIENCE

PIPELINING = ("PIPELINING", "8BITMIME", "SIZE 1000000")
Say = Callable[["Scripted", str], str | None]


class Scripted(asyncio.Protocol):
    """Says 250 to everything, but for what the test has it say. Begins a mail where it says 354."""

    def __init__(self, greeting: str, offers: Sequence[str], say: Say) -> None:
        self.heard: list[list[str]] = []
        """The commands and mails that came with each read."""
        self.taken = 0
        self.transport = cast(asyncio.Transport, None)
        self._greeting, self._offers, self._say = greeting, offers, say
        self._came = b""
        self._in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.answer(self._greeting)

    def answer(self, *lines: str) -> None:
        self.transport.write("".join(f"{line}\r\n" for line in lines).encode())

    def data_received(self, data: bytes) -> None:
        self._came += data
        self.heard.append([])
        while not self.transport.is_closing():
            end = b".\r\n" if self._in_mail else b"\r\n"
            said, found, self._came = self._came.partition(end)
            if not found:
                self._came = said
                return
            self._hear(("mail" if said else "dot") if self._in_mail else said.decode())

    def _hear(self, said: str) -> None:
        self.heard[-1].append(said)
        self._in_mail = False
        if said.startswith("EHLO"):
            return self.answer("250-scripted", *(f"250-{offer}" for offer in self._offers), "250 HELP")
        answer = self._say(self, said) or ("354 go on" if said == "DATA" else "250 fine")
        if self.transport.is_closing():
            return None
        self._in_mail = answer.startswith("354")
        self.taken += said == "mail" and answer.startswith("250")
        return self.answer(answer)


def fine(server: Scripted, said: str) -> None:
    return None


@asynccontextmanager
async def scripted(
    say: Say = fine, *, offers: Sequence[str] = PIPELINING, greeting: str = "220 scripted"
) -> AsyncIterator[tuple[Server, list[Scripted]]]:
    """A client, and the connections that it makes."""
    made: list[Scripted] = []

    def connected() -> Scripted:
        made.append(Scripted(greeting, offers, say))
        return made[-1]

    listening = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    server = Server(f"smtp://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with listening, asyncio.timeout(PATIENCE):
        try:
            yield server, made
        finally:
            await server.quit()


async def a_session(server: Server) -> Session:
    session = await server.session()
    assert session
    return session


async def take(server: Server, recipient: str, session: Session | None = None) -> bool | None:
    """Over a connection that is given back; closed where the mailer would close it."""
    session = session or await a_session(server)
    content = letter(uuid4(), recipient, "Subject", "Text\n", eight_bit=True)
    try:
        return await server.take(session, content, recipient, PATIENCE)
    except BaseException:
        session.close()
        raise
    finally:
        server.give_back(session)


def mail_for(recipient: str) -> list[str]:
    size = len(letter(uuid4(), recipient, "Subject", "Text\n", eight_bit=True)) - len(".\r\n")
    return [f"MAIL FROM:<shop@choreo.invalid> SIZE={size} BODY=8BITMIME", f"RCPT TO:<{recipient}>", "DATA"]


async def test_what_comes_before_a_mail_is_said_in_one_go_and_two_mails_never_are() -> None:
    async with scripted() as (server, made):
        for recipient in ("ada@example.com", "eve@example.com"):
            assert await take(server, recipient)
    (connection,) = made
    mails = [part for name in ("ada", "eve") for part in (mail_for(f"{name}@example.com"), ["mail"])]
    assert connection.heard[1:] == [*mails, ["QUIT"]]


@pytest.mark.parametrize("greeting", ["220 scripted", "220 scripted PIPELINING"])
async def test_a_server_that_does_not_offer_it_hears_one_command_at_a_time(greeting: str) -> None:
    """Offered is what EHLO is answered with."""
    async with scripted(offers=["8BITMIME"], greeting=greeting) as (server, made):
        assert await take(server, "ada@example.com")
    assert [len(together) for together in made[0].heard] == [1] * len(made[0].heard)
    verbs = [said.partition(" ")[0] for (said,) in made[0].heard]
    assert verbs == ["EHLO", "MAIL", "RCPT", "DATA", "mail", "QUIT"]


@pytest.mark.parametrize("to_data", ["503 nobody to send it to", "354 whoever it may be for"])
@pytest.mark.parametrize(("answer", "taken"), [("550 unknown", False), ("450 later", None)])
async def test_a_recipient_refused_in_the_middle_leaves_the_others_unharmed(
    answer: str, taken: bool | None, to_data: str
) -> None:
    """Nothing of it is sent; where the server asks for it all the same, it gets a dot."""
    recipient = ""

    def refuse(server: Scripted, said: str) -> str | None:
        nonlocal recipient
        recipient = said if said.startswith("RCPT") else recipient
        if "odd@" not in recipient:
            return None
        return {recipient: answer, "DATA": to_data}.get(said)

    async with scripted(refuse) as (server, made):
        found = [await take(server, f"{name}@example.com") for name in ("ada", "odd", "eve")]
    assert found == [True, taken, True]
    (connection,) = made
    odd = [mail_for("odd@example.com"), *[["dot"] for _ in range(to_data.startswith("354"))], ["RSET"]]
    mails = [part for name in ("ada", "eve") for part in (mail_for(f"{name}@example.com"), ["mail"])]
    assert connection.heard[1:] == [*mails[:2], *odd, *mails[2:], ["QUIT"]]


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA", "mail"])
async def test_a_connection_that_ends_within_a_mail_is_that_mails_trouble(at: str) -> None:
    def hang_up(server: Scripted, said: str) -> str | None:
        if said.startswith(at) and len(made) == 1:
            server.transport.abort()
        return None

    made: list[Scripted]
    async with scripted(hang_up) as (server, made):
        with pytest.raises(ConnectionError):
            await take(server, "odd@example.com")
        assert await take(server, "ada@example.com")
    assert [connection.taken for connection in made] == [0, 1]


@pytest.mark.parametrize("ends", ["hangs up", "421 idle for too long", "452 enough of these", "550 no more"])
async def test_a_connection_that_has_served_long_enough_is_no_mails_trouble(ends: str) -> None:
    """The same mail goes out over another."""

    def tire(server: Scripted, said: str) -> str | None:
        if not said.startswith("MAIL") or not server.taken:
            return None
        if ends == "hangs up":
            server.transport.abort()
        return ends

    async with scripted(tire) as (server, made):
        assert await take(server, "ada@example.com")
        with pytest.raises(Worn):
            await take(server, "eve@example.com")
        assert await take(server, "eve@example.com")
    assert [connection.taken for connection in made] == [1, 1]


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_a_name_and_a_password_are_told_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """From the first byte, or as soon as the server offers it; and mails follow in the same way."""
    authority = a_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority)
    told: list[Any] = []

    def accept(_: object, __: object, ___: object, mechanism: str, login: LoginPassword) -> AuthResult:
        told.append((login.login, login.password))
        return AuthResult(success=True)

    loop = asyncio.get_running_loop()
    how = {"auth_required": True, "authenticator": accept, "loop": loop}
    listening = await loop.create_server(
        (lambda: SMTP(Inbox(told), **how, require_starttls=True, tls_context=tls))
        if scheme == "smtp"
        else (lambda: SMTP(Inbox(told), **how, auth_require_tls=False)),
        "127.0.0.1",
        0,
        ssl=tls if scheme == "smtps" else None,
    )
    port = listening.sockets[0].getsockname()[1]
    server = Server(f"{scheme}://the%20shop:s%3Acret@localhost:{port}")
    async with listening, asyncio.timeout(PATIENCE):
        for name in ("ada", "eve"):
            assert await take(server, f"{name}@example.com")
        await server.quit()
    assert told == [(b"the shop", b"s:cret"), ["ada@example.com"], ["eve@example.com"]]


class Inbox:
    def __init__(self, told: list[Any]) -> None:
        self._told = told

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:
        self._told.append(envelope.rcpt_tos)
        return "250 taken"


def a_certificate(folder: Path) -> Path:
    """With its key; for localhost, and its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "localhost.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    return file


async def test_a_connection_that_was_closed_while_nobody_used_it_is_not_used() -> None:
    async with scripted() as (server, made):
        session = await a_session(server)
        assert await take(server, "ada@example.com", session)
        heard = asyncio.ensure_future(session._answer())
        made[0].answer("421 idle for too long")
        made[0].transport.close()
        await heard
        with pytest.raises(ConnectionError):
            await session._answer()
        assert await take(server, "eve@example.com")
    assert [connection.taken for connection in made] == [1, 1]


async def test_a_server_that_takes_nothing_from_us_is_away() -> None:
    async with scripted(lambda _, said: "452 disk full" if said.startswith("MAIL") else None) as (server, _):
        with pytest.raises(ServerAway, match="452 disk full"):
            await take(server, "ada@example.com")


async def test_a_server_that_wants_no_more_connections_is_served_over_those_it_took() -> None:
    async with scripted() as (server, made):
        kept = await a_session(server)
        full = await asyncio.get_running_loop().create_server(
            lambda: Scripted("421 too many", (), fine), "127.0.0.1", 0
        )
        async with full:
            port, server._how["port"] = server._how["port"], full.sockets[0].getsockname()[1]
            assert await server.session() is None
            assert server.most == 1
            assert await take(server, "ada@example.com", kept)
            await server.quit()
            with pytest.raises(ServerAway, match="too many"):
                await server.session()
            server._how["port"] = port
        assert await take(server, "ada@example.com")
        assert server.most == smtp.CONNECTIONS
    assert len(made) == 2


@pytest.mark.parametrize("answer", ["nonsense", "999 what", "250-and " * 10_000])
async def test_what_is_no_answer_is_no_refusal(answer: str) -> None:
    """To one that never ends nobody listens for ever."""
    async with scripted(lambda _, said: answer if said == "mail" else None) as (server, _):
        with pytest.raises((smtp.Unexpected, ConnectionError)):
            await take(server, "ada@example.com")


async def test_an_answer_may_have_several_lines_or_nothing_but_a_number() -> None:
    answers = {"mail": "250-2.0.0 first\r\n250", "DATA": "354"}
    async with scripted(lambda _, said: answers.get(said)) as (server, _):
        assert await take(server, "ada@example.com")


@pytest.mark.parametrize(("offers", "taken"), [((), False), (("SMTPUTF8",), True)])
async def test_an_address_beyond_ascii_needs_a_server_that_takes_it(
    offers: Sequence[str], taken: bool
) -> None:
    async with scripted(offers=[*PIPELINING, *offers]) as (server, made):
        assert await take(server, "jörg@example.com") is taken
        assert await take(server, "ada@example.com")
    told = [said for said in made[0].heard if said[0].startswith("MAIL")]
    assert ["SMTPUTF8" in mail for mail, *_ in told] == [True, False][not taken :]
    assert not taken or "RCPT TO:<jörg@example.com>" in told[0]
