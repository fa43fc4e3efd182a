"""Orders expire when their time is up and the news is in: the order service alone, with a log made up."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio

from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.kafka.catch_up import CatchUp
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog
from choreo.chassis.observe.health import Job
from choreo.chassis.transaction import parked
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.chassis.transaction.retry import drop, retry
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.transaction.transaction import Transaction
from choreo.demo.client import Customer, Json
from choreo.embedded.postgres import Postgres
from choreo.message.decider import types_of
from events.billing import PaymentConfirmed
from order_service import expiry
from order_service.evolve import Consumed
from order_service.expiry import Expiry
from order_service.service import decider
from order_service.store import STORE
from tests.component.alone import Alone, alone
from tests.shop import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPIC = "billing-events"
DEADLINE = timedelta(seconds=30)


class Hands:
    """A clock that is turned forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class BillingLog:
    """Billing's topic as Kafka would describe it."""

    latest: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0, 2: 0})
    topic_id: str = "topic"
    away: bool = False
    described: int = 0

    async def __call__(self) -> Mapping[TopicPartition, PartitionLog]:
        self.described += 1
        if self.away:
            raise ConnectionError("no broker")
        return {
            (TOPIC, number): PartitionLog(
                Position(TOPIC, number, 0, self.topic_id, "cluster"), 0, latest, latest, 0
            )
            for number, latest in self.latest.items()
        }


@dataclass
class Desk:
    """The order service, its log and its clock. Time passes and orders expire when a test says so."""

    alone: Alone
    log: BillingLog
    hands: Hands

    def expiry(self) -> Expiry:
        """As one more process would run it."""
        runtime = self.alone.runtime
        return Expiry(runtime.kernel, runtime.engine, self.catch_up(), self.hands, DEADLINE, Job())

    def catch_up(self) -> CatchUp:
        runtime = self.alone.runtime
        return CatchUp("order", TOPIC, runtime.engine, describe=self.log, partition_of=runtime.partition_of)

    async def customer(self, partition: int = 0) -> Customer:
        """Somebody whose events lie in this partition; those that are heard all come from partition 0."""
        id = uuid4()
        while self.alone.runtime.partition_of(str(id)) != partition:
            id = uuid4()
        return await self.alone.customer(id)

    async def overdue(self, customer: Customer) -> Json:
        """An order that nobody has decided about in time."""
        order: Json = (await customer.order("100")).json()
        self.hands.ahead += DEADLINE
        return order

    async def mend(self, customer: Customer) -> None:
        """A person drops the first of what is parked of theirs, and has the rest taken again."""
        runtime, key = self.alone.runtime, str(customer.id)
        transaction = Transaction(
            decider(runtime.settings),
            partition_of=runtime.partition_of,
            clock=self.hands,
        )
        async with raw_connection(runtime.engine) as conn:
            (first, *_) = await parked.of_key(conn, key)
        await drop(runtime.engine, first)
        await retry(transaction, PostgresStore(runtime.engine, STORE), types_of(Consumed), key)

    async def hear(self, *facts: Any) -> None:
        """What lies in the log is read."""
        self.log.latest[0] += len(facts)
        await self.alone.hear(*facts)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[tuple[Alone, Hands]]:
    with pytest.MonkeyPatch.context() as patch:
        hands = Hands()
        patch.setattr(clock, "now", hands)
        patch.setattr(expiry, "_CATCH_UP_TIMEOUT_SECONDS", 0.05)
        async with alone("order", postgres, templates) as service:
            yield service, hands


@pytest_asyncio.fixture(loop_scope="module")
async def desk(running: tuple[Alone, Hands]) -> Desk:
    service, hands = running
    desk = Desk(service, BillingLog(), hands)
    await service.hear(paid_by(await service.customer()))  # so that there is a position
    ((read,),) = service.database.rows("SELECT next_offset FROM positions WHERE topic = %s", TOPIC)
    desk.log.latest[0] = read
    return desk


def paid_by(stranger: Customer) -> PaymentConfirmed:
    return paid({"id": str(uuid4()), "user_id": str(stranger.id)})


def paid(order: Json) -> PaymentConfirmed:
    order_id, user_id = UUID(order["id"]), UUID(order["user_id"])
    return PaymentConfirmed(payment_id=uuid4(), order_id=order_id, user_id=user_id, amount=100_00, balance=0)


async def status_of(customer: Customer, order: Json) -> tuple[str, str | None]:
    found = (await customer.get("order", f"/orders/{order['id']}")).json()
    return found["status"], found["reason"]


def facts_about(desk: Desk, customer: Customer) -> list[tuple[dict[str, str], Json]]:
    query = "SELECT headers, value FROM outbox WHERE key = %s ORDER BY position"
    rows = desk.alone.database.rows(query, str(customer.id))
    return [(dict(orjson.loads(headers)), orjson.loads(value)) for headers, value in rows]


async def test_an_order_that_nobody_decided_about_in_time_expires(desk: Desk) -> None:
    ada = await desk.customer()
    order = await desk.overdue(ada)
    await desk.expiry().round()
    assert await status_of(ada, order) == ("cancelled", "expired")
    (placed, _), (cancelled, fact) = facts_about(desk, ada)
    assert fact == {"order_id": order["id"], "user_id": str(ada.id), "reason": "expired"}
    assert (cancelled["ce_causationid"], cancelled["ce_correlationid"]) == (
        placed["ce_id"],
        placed["ce_correlationid"],
    )


async def test_before_its_time_it_does_not_and_nobody_is_asked(desk: Desk) -> None:
    ada = await desk.customer()
    order = (await ada.order("100")).json()
    pause = await desk.expiry().round()
    assert 0 < pause <= DEADLINE.total_seconds()
    assert await status_of(ada, order) == ("created", None)
    assert desk.log.described == 0
    await desk.hear(paid(order))
    assert await desk.expiry().round() == DEADLINE.total_seconds(), "nothing that waits can be due earlier"


async def test_with_the_broker_away_nothing_expires(desk: Desk) -> None:
    ada = await desk.customer()
    order = await desk.overdue(ada)
    desk.log.away = True
    with pytest.raises(ConnectionError, match="no broker"):
        await desk.expiry().round()
    assert await status_of(ada, order) == ("created", None)
    desk.log.away = False
    await desk.expiry().round()
    assert await status_of(ada, order) == ("cancelled", "expired")


async def test_an_order_that_was_decided_in_time_does_not_expire_however_late_that_is_heard(
    desk: Desk,
) -> None:
    """The service was stopped: the payment lies in the topic, and the deadline is long over."""
    ada = await desk.customer()
    order = await desk.overdue(ada)
    desk.log.latest[0] += 1
    await desk.expiry().round()
    assert await status_of(ada, order) == ("created", None)
    await desk.alone.hear(paid(order))
    await desk.expiry().round()
    assert await status_of(ada, order) == ("confirmed", None)


async def test_what_is_read_while_a_round_waits_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_CATCH_UP_TIMEOUT_SECONDS", PATIENCE)
    ada, eve = await desk.customer(), await desk.customer()
    paid_in_time, order = await desk.overdue(ada), await desk.overdue(eve)
    desk.log.latest[0] += 1
    round = asyncio.ensure_future(desk.expiry().round())
    await desk.alone.hear(paid(paid_in_time))
    await round
    assert await status_of(ada, paid_in_time) == ("confirmed", None)
    assert await status_of(eve, order) == ("cancelled", "expired")


async def test_only_the_keys_own_partition_has_to_be_read(desk: Desk) -> None:
    ada, eve = await desk.customer(partition=0), await desk.customer(partition=1)
    orders = await desk.overdue(ada), await desk.overdue(eve)
    desk.log.latest[1] += 1
    await desk.expiry().round()
    assert await status_of(ada, orders[0]) == ("cancelled", "expired")
    assert await status_of(eve, orders[1]) == ("created", None)


async def test_what_is_parked_is_not_known_and_keeps_nobody_elses_order(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payment was read and could not be applied: it queues behind an event that needs a person."""
    monkeypatch.setattr(expiry, "_AT_ONCE", 2)
    ada, eve = await desk.customer(), await desk.customer()
    theirs = [await desk.overdue(ada) for _ in range(3)]
    order = await desk.overdue(eve)
    await desk.hear(paid_by(ada), paid(theirs[0]))
    await desk.expiry().round()
    assert [await status_of(ada, one) for one in theirs] == 3 * [("created", None)]
    assert await status_of(eve, order) == ("cancelled", "expired")
    await desk.mend(ada)
    await desk.expiry().round()
    assert [await status_of(ada, one) for one in theirs] == [
        ("confirmed", None),
        ("cancelled", "expired"),
        ("cancelled", "expired"),
    ]


async def test_with_another_log_nothing_expires(desk: Desk) -> None:
    """It was made anew: its end says nothing about what was read."""
    ada = await desk.customer()
    order = await desk.overdue(ada)
    desk.log.topic_id = "another"
    with pytest.raises(LogMismatch, match="is not the log that order has read"):
        await desk.expiry().round()
    desk.log.topic_id, desk.log.latest[0] = "topic", 0
    with pytest.raises(LogMismatch, match="the log was cut"):
        await desk.expiry().round()
    assert await status_of(ada, order) == ("created", None)


async def test_however_many_processes_ask_it_expires_once(desk: Desk) -> None:
    ada = await desk.customer()
    order = await desk.overdue(ada)
    await asyncio.gather(*(desk.expiry().round() for _ in range(5)))
    await desk.expiry().round()
    assert await status_of(ada, order) == ("cancelled", "expired")
    assert len(facts_about(desk, ada)) == 2
    query = "SELECT count(*) FROM journal WHERE key = %s AND type = 'ExpireOrder'"
    assert desk.alone.database.rows(query, str(ada.id)) == [(1,)]


async def test_asked_too_early_by_a_clock_that_runs_ahead_it_expires_later(desk: Desk) -> None:
    ada = await desk.customer()
    order = (await ada.order("100")).json()
    runtime = desk.alone.runtime
    ahead = Expiry(
        runtime.kernel, runtime.engine, desk.catch_up(), lambda: desk.hands() + 2 * DEADLINE, DEADLINE, Job()
    )
    await ahead.round()
    assert await status_of(ada, order) == ("created", None)
    desk.hands.ahead += DEADLINE
    await desk.expiry().round()
    assert await status_of(ada, order) == ("cancelled", "expired")


async def test_a_cancel_and_an_expiry_at_once_are_one_cancel(desk: Desk) -> None:
    ada = await desk.customer()
    order = await desk.overdue(ada)
    answer, _ = await asyncio.gather(ada.cancel(order["id"]), desk.expiry().round())
    reason = {202: "by_user", 409: "expired"}[answer.status_code]
    assert await status_of(ada, order) == ("cancelled", reason)
    assert len(facts_about(desk, ada)) == 2
