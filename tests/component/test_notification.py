"""The notification service alone: what is heard is stored for its user, address or not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP, Envelope, Session

from choreo.chassis import clock
from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.user import UserRegistered
from notification_service import mailer
from notification_service.mailer import Mailer
from tests.component.alone import Alone, alone, assert_closed_to_strangers, assert_problem
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


class Stuck:
    """A mail server that takes two mails for this address and thinks about the third for ever."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.taken = 0
        self.thinking = asyncio.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if envelope.rcpt_tos == [self.address]:
            if self.taken == 2:
                self.thinking.set()
                await asyncio.Event().wait()
            self.taken += 1
        return "250 taken"


async def test_what_a_slow_server_takes_its_time_for_nobody_else_mails(
    desk: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is short, so that what a dead mailer held is free soon; a living one renews it."""
    monkeypatch.setattr(mailer, "_LEASE", timedelta(seconds=0.3))
    ada = await desk.customer()
    await desk.hear(paid(ada), paid(ada), paid(ada))
    stuck = Stuck(f"{ada.login}@example.com")
    async with a_mail_server(stuck) as url:
        await desk.hear(UserRegistered(user_id=ada.id, login=ada.login, email=stuck.address))
        mailing = asyncio.ensure_future(a_mailer(desk, url, clock.now).run())
        async with asyncio.timeout(PATIENCE):
            await stuck.thinking.wait()
        ended = leased_until(desk)
        await eventually(lambda: asyncio.to_thread(leased_until, desk), lambda until: until > ended)
        other = a_mailer(desk, url, lambda: ended + timedelta(milliseconds=1))
        assert [mail for mail in await other._take() if mail.user_id == ada.id] == []
        mailing.cancel()
        await asyncio.wait([mailing])


def leased_until(desk: Alone) -> datetime:
    ((until,),) = desk.database.rows("SELECT max(leased_until) FROM leases")
    assert isinstance(until, datetime)
    return until


def a_mailer(desk: Alone, url: str, now: Callable[[], datetime]) -> Mailer:
    return Mailer(desk.runtime.kernel, desk.runtime.engine, url, now)


@asynccontextmanager
async def a_mail_server(handler: Stuck) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, loop=loop), "127.0.0.1", 0)
    yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_what_was_sent_is_recorded_when_the_mailer_is_told_to_stop(desk: Alone) -> None:
    ada = await desk.customer()
    await desk.hear(paid(ada), paid(ada), paid(ada))
    stuck = Stuck(f"{ada.login}@example.com")
    async with a_mail_server(stuck) as url:
        await desk.hear(UserRegistered(user_id=ada.id, login=ada.login, email=stuck.address))
        mailing = asyncio.ensure_future(a_mailer(desk, url, clock.now).run())
        async with asyncio.timeout(PATIENCE):
            await stuck.thinking.wait()
            mailing.cancel()
            await asyncio.wait([mailing])
    assert sorted(told["status"] for told in await ada.notifications()) == ["pending", "sent", "sent"]
