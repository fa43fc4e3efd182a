"""The notification service alone: what is heard is stored for its user, address or not."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from email import message_from_bytes
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP, Envelope, Session

from choreo.chassis.observe.health import Job
from choreo.chassis.observe.watchdog import cancel
from choreo.demo.client import Customer
from choreo.embedded.ports import free_ports
from choreo.embedded.postgres import Postgres
from choreo.message.decider import Decision
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import UserRegistered
from notification_service import decide, leases, smtp
from notification_service.commands import RecordDelivery
from notification_service.leases import Leases, Mail
from notification_service.mailer import Mailer
from notification_service.state import Notifications
from tests.component.alone import Alone, alone, assert_closed_to_strangers, assert_problem
from tests.locks import held
from tests.shop import PATIENCE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("notification", postgres, templates) as service:
        yield service


def paid(customer: Customer) -> PaymentConfirmed:
    return PaymentConfirmed(
        payment_id=uuid4(), order_id=uuid4(), user_id=customer.id, amount=100_00, balance=300_00
    )


def refused(customer: Customer) -> PaymentRejected:
    return PaymentRejected(
        order_id=uuid4(), user_id=customer.id, amount=500_00, reason="insufficient_funds", balance=300_00
    )


async def test_strangers_are_sent_away(desk: Alone) -> None:
    await assert_closed_to_strangers(desk)


async def test_a_notification_is_stored_before_anybody_knows_its_recipient(desk: Alone) -> None:
    ada = await desk.customer()
    fact = paid(ada)
    (event,) = await desk.hear(fact)
    (told,) = await ada.notifications()
    assert told == {
        "id": told["id"],
        "user_id": str(ada.id),
        "order_id": str(fact.order_id),
        "kind": "order_confirmed",
        "subject": told["subject"],
        "text": told["text"],
        "channel": "email",
        "status": "pending",
        "created_at": event.time.isoformat().replace("+00:00", "Z"),
        "sent_at": None,
    }
    assert "100.00" in told["subject"]
    assert str(fact.order_id) in told["text"] and "300.00" in told["text"]
    await desk.hear(UserRegistered(user_id=ada.id, login="ada", email="ada@example.com"))
    assert await ada.notifications() == [told]
    assert (await ada.get("notification", f"/notifications/{told['id']}")).json() == told


async def test_a_cancel_is_told_before_payment_and_after(desk: Alone) -> None:
    ada = await desk.customer()
    confirmed, unpaid = paid(ada), refused(ada).model_copy(update={"reason": "order_cancelled"})
    await desk.hear(confirmed, PaymentRefunded(**confirmed.model_dump()), unpaid)
    assert [(told["kind"], told["order_id"]) for told in await ada.notifications()] == [
        ("order_cancelled", str(unpaid.order_id)),
        ("order_refunded", str(confirmed.order_id)),
        ("order_confirmed", str(confirmed.order_id)),
    ]


async def test_notifications_page_by_page_newest_first(desk: Alone) -> None:
    ada = await desk.customer()
    facts: list[PaymentConfirmed | PaymentRejected] = [paid(ada), refused(ada), paid(ada)]
    await desk.hear(*facts)
    first = (await ada.get("notification", "/notifications", limit=2)).json()
    rest = (await ada.get("notification", "/notifications", limit=2, cursor=first["next"])).json()
    told = first["items"] + rest["items"]
    assert [item["order_id"] for item in told] == [str(fact.order_id) for fact in facts[::-1]]
    assert [item["kind"] for item in told] == ["order_confirmed", "order_rejected", "order_confirmed"]
    assert rest["next"] is None


async def test_other_peoples_notifications_are_not_there(desk: Alone) -> None:
    ada, eve = await desk.customer(), await desk.customer()
    await desk.hear(paid(ada))
    (told,) = await ada.notifications()
    assert await eve.notifications() == []
    for id in (told["id"], uuid4(), "not-an-id"):
        assert_problem(await eve.get("notification", f"/notifications/{id}"), 404, "not_found")


@dataclass
class Server:
    """A mail server that takes every mail, and does what it is told to at one address."""

    odd_address: str = ""
    oddly: Callable[[SMTP], Awaitable[str]] | None = None
    pipelining: bool = True
    connections: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    """By Message-ID."""

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return [responses[0], *["250-PIPELINING"] * self.pipelining, *responses[1:]]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == self.odd_address and self.oddly:
            return await self.oddly(server)
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.taken[message_from_bytes(envelope.content)["Message-ID"]] += 1
        return "250 taken"


class Stuck(Server):
    """It takes two mails for this address and thinks about the third for ever."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.thinking = asyncio.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if envelope.rcpt_tos == [self.address] and self.taken.total() == 2:
            self.thinking.set()
            await asyncio.Event().wait()
        return await super().handle_DATA(server, session, envelope)


async def test_what_a_slow_server_takes_its_time_for_nobody_else_mails(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is short, so that what a dead mailer held is free soon; a living one renews it."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    ada = await desk.customer()
    await desk.hear(paid(ada), paid(ada), paid(ada))
    stuck = Stuck(f"{ada.login}@example.com")
    async with a_mail_server(stuck) as url:
        await desk.hear(UserRegistered(user_id=ada.id, login=ada.login, email=stuck.address))
        async with mailing(desk, url):
            async with asyncio.timeout(PATIENCE):
                await stuck.thinking.wait()
            first, _ = lease_of(desk)
            await eventually(
                lambda: asyncio.to_thread(lease_of, desk), lambda lease: lease[0] > first and lease[1]
            )
            assert await taken_for(ada, Leases(desk.runtime.engine, uuid4())) == []
    await forgotten(desk, ada)


async def with_two_mails(desk: Alone) -> Customer:
    """Somebody whose address is known, and who is to be told of two payments."""
    eve = await desk.customer()
    await desk.hear(
        paid(eve), paid(eve), UserRegistered(user_id=eve.id, login=eve.login, email="eve@example.com")
    )
    return eve


async def taken_for(customer: Customer, leases: Leases) -> list[Mail]:
    first, again = await leases.take(first=True, again=True)
    return [mail for mail in (*first, *again) if mail.user_id == customer.id]


def leases_of(desk: Alone, customer: Customer) -> dict[UUID, bool | None]:
    """Of the customer's notifications, each with what is kept of its outcome."""
    query = """SELECT notification_id, delivered FROM leases JOIN notifications ON id = notification_id
        WHERE user_id = %s"""
    return dict(desk.database.rows(query, customer.id))


def lease_of(desk: Alone) -> tuple[datetime, bool]:
    """Until when the mail that takes so long is leased, and whether its first lease would be over."""
    query = "SELECT leased_until, leased_until > clock_timestamp() FROM leases ORDER BY attempts LIMIT 1"
    ((until, held),) = desk.database.rows(query)
    return until, held


@asynccontextmanager
async def mailing(desk: Alone, url: str) -> AsyncIterator[Job]:
    job = Job()
    mailer = Mailer(desk.runtime.kernel, desk.runtime.engine, url, job, uuid4())
    waking = desk.runtime.kernel.on_commit
    waking.append(wake := lambda _: mailer.wake())
    running = asyncio.ensure_future(mailer.run())
    try:
        yield job
    finally:
        await cancel(running)
        waking.remove(wake)


@asynccontextmanager
async def a_mail_server(handler: Server, port: int = 0, **how: Any) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, loop=loop, **how), "127.0.0.1", port)
    try:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_what_was_sent_is_recorded_when_the_mailer_is_told_to_stop(desk: Alone) -> None:
    ada = await desk.customer()
    await desk.hear(paid(ada), paid(ada), paid(ada))
    stuck = Stuck(f"{ada.login}@example.com")
    async with a_mail_server(stuck) as url:
        await desk.hear(UserRegistered(user_id=ada.id, login=ada.login, email=stuck.address))
        async with mailing(desk, url):
            async with asyncio.timeout(PATIENCE):
                await stuck.thinking.wait()
    assert sorted(told["status"] for told in await ada.notifications()) == ["pending", "sent", "sent"]
    await forgotten(desk, ada)


async def test_a_server_that_answers_after_all_is_heard_when_the_mailer_is_told_to_stop(desk: Alone) -> None:
    """Otherwise the mail would be mailed again by the next."""
    ada = await desk.customer()
    asked, answering = asyncio.Event(), asyncio.Event()

    class Slow(Server):
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
            asked.set()
            await answering.wait()
            return await super().handle_DATA(server, session, envelope)

    await desk.hear(paid(ada), UserRegistered(user_id=ada.id, login=ada.login, email="ada@example.com"))
    async with a_mail_server(Slow()) as url, mailing(desk, url):
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        asyncio.get_running_loop().call_soon(answering.set)  # once the mailer is told
    assert [told["status"] for told in await ada.notifications()] == ["sent"]


async def test_connections_are_kept_and_no_lease_is_left(desk: Alone) -> None:
    """However many mails come one after the other."""
    eve = await desk.customer()
    await desk.hear(UserRegistered(user_id=eve.id, login=eve.login, email="eve@example.com"))
    server = Server()
    async with a_mail_server(server) as url, mailing(desk, url):
        for _ in range(3):
            await desk.hear(paid(eve))
            await all_are(eve, "sent")
        await desk.hear(*[paid(eve) for _ in range(5 * INNOCENT)])
        await all_are(eve, "sent")
        assert 1 <= server.connections <= smtp.CONNECTIONS
        assert server.taken.total() == 3 + 5 * INNOCENT

        await eventually(lambda: asyncio.to_thread(leases_of, desk, eve), lambda left: not left)


async def test_what_was_tried_before_never_takes_all_connections(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server thinks about it for longer than anybody waits, and others go out meanwhile."""
    monkeypatch.setattr(leases, "MAIL_TIMEOUT_SECONDS", PATIENCE)
    odd, eve = await desk.customer(), await desk.customer()
    await desk.hear(
        *[paid(odd) for _ in range(2 * smtp.CONNECTIONS)],
        UserRegistered(user_id=odd.id, login=odd.login, email=ODD),
        UserRegistered(user_id=eve.id, login=eve.login, email="eve@example.com"),
    )
    desk_leases = Leases(desk.runtime.engine, uuid4())
    for mail in await taken_for(odd, desk_leases):
        desk_leases.put_off(replace(mail, attempts=-10), None)  # for no time
    await desk_leases.let_go([])
    thinking = asyncio.Semaphore(0)

    async def think(server: SMTP) -> str:
        thinking.release()
        return await thinks(server)

    async with a_mail_server(Server(ODD, think)) as url, mailing(desk, url):
        async with asyncio.timeout(PATIENCE):
            for _ in range(smtp.CONNECTIONS - 1):
                await thinking.acquire()
        await desk.hear(paid(eve))
        await all_are(eve, "sent")
    await forgotten(desk, odd)


async def hangs_up(server: SMTP) -> str:
    assert isinstance(server.transport, asyncio.Transport)
    server.transport.abort()
    return "250 never heard"


async def thinks(server: SMTP) -> str:
    await asyncio.Event().wait()
    return "250 never said"


def answers(answer: str) -> Callable[[SMTP], Awaitable[str]]:
    async def say(server: SMTP) -> str:
        return answer

    return say


ODD = "odd@example.com"
INNOCENT = 12


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one-by-one"])
@pytest.mark.parametrize(
    ("address", "oddly", "status"),
    [
        pytest.param(ODD, hangs_up, "pending", id="hangs-up"),
        pytest.param(ODD, thinks, "pending", id="thinks-for-ever"),
        pytest.param(ODD, answers("421 closing"), "pending", id="421"),
        pytest.param(ODD, answers("451 later"), "pending", id="451"),
        pytest.param(ODD, answers("nonsense"), "pending", id="no-answer-at-all"),
        pytest.param(ODD, answers("550 unknown"), "failed", id="550"),
        pytest.param("jörg@example.com", None, "failed", id="no-SMTPUTF8"),
        pytest.param("=?utf-8?b?#?=@x.invalid", None, "failed", id="raises-in-email"),
        pytest.param("=?utf-8?q?xfsrr?=@example.com", None, "failed", id="would-be-anothers"),
        pytest.param("odd> <eve@example.com", None, "failed", id="two-addresses"),
    ],
)
async def test_one_mail_that_does_not_go_out_holds_up_no_other(
    desk: Alone,
    address: str,
    oddly: Callable[[SMTP], Awaitable[str]] | None,
    status: str,
    pipelining: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The odd ones are the oldest, and one comes in the middle."""
    monkeypatch.setattr(leases, "MAIL_TIMEOUT_SECONDS", 1.0)
    odd, eve = await desk.customer(), await desk.customer()
    await desk.hear(paid(odd), paid(odd), *[paid(eve) for _ in range(INNOCENT)], paid(odd))
    server = Server(address, oddly, pipelining)
    async with a_mail_server(server) as url:
        for customer, at in ((odd, address), (eve, "eve@example.com")):
            await desk.hear(UserRegistered(user_id=customer.id, login=customer.login, email=at))
        async with mailing(desk, url) as job:
            await all_are(eve, "sent")
            assert server.taken.total() == INNOCENT
            await eventually(odd.notifications, lambda found: {one["status"] for one in found} == {status})
            assert job.state.ready
    await forgotten(desk, odd)


async def all_are(customer: Customer, status: str) -> None:
    async def statuses() -> set[str]:
        return {one["status"] for one in await customer.notifications()}

    with suppress(TimeoutError):
        await eventually(statuses, lambda found: found == {status})
    assert await statuses() == {status}


async def forgotten(desk: Alone, *customers: Customer) -> None:
    """The next test's mailer has nothing to do with them."""
    async with desk.runtime.engine.begin() as conn:
        for customer in customers:
            await conn.exec_driver_sql("DELETE FROM recipients WHERE user_id = %s", (customer.id,))


async def test_the_server_away_makes_everybody_wait_and_nobody_longer(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, then turned away, then not greeted. Once it is there all go out, as if for the first time."""
    monkeypatch.setattr(smtp, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(smtp, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(smtp, "LONGEST_PAUSE_SECONDS", 0.1)
    eve = await desk.customer()
    await desk.hear(
        *[paid(eve) for _ in range(INNOCENT)],
        UserRegistered(user_id=eve.id, login=eve.login, email="eve@example.com"),
    )
    (port,) = free_ports(1)
    async with mailing(desk, f"smtp://127.0.0.1:{port}") as job:

        async def says(sentence: str) -> None:
            async def cause() -> str:
                return job.state.cause or ""

            await eventually(cause, lambda cause: sentence in cause)

        await says("cannot be reached")
        async with greeting(port, b"421 too busy\r\n"):
            await says("421")
        async with greeting(port, b""):
            await says("does not answer within 0.5 s")
        attempts = desk.database.rows("SELECT DISTINCT attempts FROM leases")
        assert all(number <= 1 for (number,) in attempts), "it counts against none of them"
        server = Server()
        async with a_mail_server(server, port):
            await all_are(eve, "sent")
            assert set(server.taken.values()) == {1}
            assert job.state.ready


@asynccontextmanager
async def greeting(port: int, words: bytes) -> AsyncIterator[None]:
    """A server that says this to whoever comes, and nothing else."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        with suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def test_a_server_that_takes_nothing_from_us_for_a_while_is_away(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so where a mail begins: that is nothing about this mail."""
    monkeypatch.setattr(smtp, "PAUSE_SECONDS", 0.1)

    class Full(Server):
        full = True

        async def handle_MAIL(
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            if self.full:
                return "452 disk full"
            envelope.mail_from = address
            return "250 fine"

    eve = await desk.customer()
    await desk.hear(paid(eve), UserRegistered(user_id=eve.id, login=eve.login, email="eve@example.com"))
    server = Full()
    async with a_mail_server(server) as url, mailing(desk, url) as job:

        async def cause() -> str:
            return job.state.cause or ""

        await eventually(cause, lambda cause: "452 disk full" in cause)
        server.full = False
        await all_are(eve, "sent")
        assert job.state.ready


async def test_a_mail_whose_outcome_cannot_be_recorded_is_not_mailed_again(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in deciding about it. Others are recorded meanwhile, and so is this once the bug is mended."""
    odd, eve = await desk.customer(), await desk.customer()
    await desk.hear(paid(odd), *[paid(eve) for _ in range(INNOCENT)])
    record = decide._record_delivery
    failures = asyncio.Queue[None]()

    def buggy(command: RecordDelivery, state: Notifications) -> Decision:
        if command.user_id == odd.id:
            failures.put_nowait(None)
            raise ZeroDivisionError
        return record(command, state)

    server = Server()
    async with a_mail_server(server) as url:
        for customer in (odd, eve):
            await desk.hear(
                UserRegistered(user_id=customer.id, login=customer.login, email=f"{customer.login}@x.com")
            )
        with monkeypatch.context() as patch:
            patch.setattr(decide, "_record_delivery", buggy)
            async with mailing(desk, url) as job:
                await all_are(eve, "sent")
                async with asyncio.timeout(PATIENCE):
                    for _ in range(2):
                        await failures.get()
                assert job.state.ready
        async with mailing(desk, url):
            await all_are(odd, "sent")
    assert server.taken.total() == INNOCENT + 1
    assert set(server.taken.values()) == {1}


async def test_what_was_not_tried_comes_before_what_was_and_the_oldest_first(desk: Alone) -> None:
    eve = await with_two_mails(desk)
    desk_leases = Leases(desk.runtime.engine, uuid4())
    tried, untried = await taken_for(eve, desk_leases)
    desk_leases.put_off(replace(tried, attempts=-10), None)  # for no time
    await desk_leases.let_go([untried.id])
    await desk.hear(paid(eve))
    first, again = await desk_leases.take(first=True, again=True)
    assert next(mail for mail in first if mail.user_id == eve.id).id == untried.id
    assert len([mail for mail in first if mail.user_id == eve.id]) == 2
    assert [mail for mail in again if mail.user_id == eve.id] == [replace(tried, attempts=2)]
    await forgotten(desk, eve)


async def test_a_lease_that_somebody_has_locked_keeps_no_other_waiting(desk: Alone) -> None:
    """It is put off once it is free, and held until then."""
    eve = await with_two_mails(desk)
    desk_leases = Leases(desk.runtime.engine, uuid4())
    locked, other = await taken_for(eve, desk_leases)

    lock = "SELECT FROM leases WHERE notification_id = %s FOR UPDATE"
    async with held(desk.database.owner_url, lock, locked.id):
        for mail in (locked, other):
            desk_leases.put_off(mail, True)
        await desk_leases.let_go([])
        assert leases_of(desk, eve) == {locked.id: None, other.id: True}
        assert desk_leases.held & {locked.id, other.id} == {locked.id}
    await desk_leases.let_go([])
    assert leases_of(desk, eve) == {locked.id: True, other.id: True}
    assert locked.id not in desk_leases.held
    await forgotten(desk, eve)


async def test_a_lease_that_a_dead_mailer_left_behind_goes(desk: Alone) -> None:
    """It had recorded what became of the mail."""
    eve = await with_two_mails(desk)
    dead = Leases(desk.runtime.engine, uuid4())
    recorded, pending = await taken_for(eve, dead)
    await desk.runtime.kernel.ask(
        RecordDelivery(cause=recorded.cause, user_id=eve.id, notification_id=recorded.id, delivered=True),
        id=uuid4(),
    )
    await Leases(desk.runtime.engine, uuid4()).take(first=False, again=False)
    assert leases_of(desk, eve) == {pending.id: None}
    await forgotten(desk, eve)


async def test_what_its_predecessor_had_in_hand_a_mailer_takes_at_once(desk: Alone) -> None:
    """Of another's it has to wait for the end of the lease; what is put off is not hurried."""
    eve = await with_two_mails(desk)
    owner = uuid4()
    dead = Leases(desk.runtime.engine, owner)
    in_hand, put_off = await taken_for(eve, dead)
    dead.put_off(put_off, None)
    await dead.let_go([])
    assert await taken_for(eve, Leases(desk.runtime.engine, uuid4())) == []
    assert [mail.id for mail in await taken_for(eve, Leases(desk.runtime.engine, owner))] == [in_hand.id]
    await forgotten(desk, eve)


async def test_holding_and_recording_do_not_wait_for_each_other(desk: Alone) -> None:
    """Both concern many mails at once. What the kernel has locked, holding leaves out."""
    eve = await with_two_mails(desk)
    held_here = Leases(desk.runtime.engine, uuid4())
    mails = await taken_for(eve, held_here)
    dropping = "DELETE FROM leases WHERE notification_id = %s"
    async with held(desk.database.owner_url, dropping, mails[0].id) as recording:
        async with asyncio.timeout(PATIENCE):
            await held_here.renew([mail.id for mail in mails])
        await recording.conn.execute(dropping.encode(), [mails[1].id])
    await forgotten(desk, eve)
