"""Parked events taken again: in order, with the same result as if nothing had ever gone wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from billing_service.evolve import Consumed
from billing_service.state import Billing
from billing_service.store import STORE
from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.transaction import parked
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.retry import Retried, drop, retry
from choreo.chassis.transaction.step import Decider
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.transaction.transaction import Transaction
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record, encode
from choreo.message.decider import types_of
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRejected
from events.order import OrderCreated
from events.user import UserRegistered
from tests.component.alone import Reader, an_event
from tests.component.test_kernel import (
    DECIDER,
    MONDAY,
    Replicas,
    balance,
    deposit,
    ordered,
    overdraws,
    published,
    raises_for,
    registered,
    replicas,
)
from tests.component.test_kernel import (
    parked as parked_rows,
)


@pytest.fixture
async def billing(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Replicas]:
    async with replicas("billing", DECIDER, STORE, postgres, templates) as found:
        yield found


class Desk:
    """Where a person retries, in a process of its own."""

    def __init__(self, billing: Replicas) -> None:
        self.engine = billing.engine()

    async def retry(
        self,
        key: UUID | str,
        decider: Decider[Billing] = DECIDER,
        *,
        consumes: tuple[type[Fact], ...] = types_of(Consumed),
        now: Callable[[], datetime] = clock.now,
    ) -> list[Retried]:
        transaction = Transaction(
            decider,
            partition_of=lambda key: partition_of(key, 3),
            clock=now,
        )
        return await retry(transaction, PostgresStore(self.engine, STORE), consumes, str(key))

    async def parked(self) -> list[Parked]:
        async with raw_connection(self.engine) as conn:
            return await parked.all(conn)


def outcomes(retried: list[Retried]) -> list[tuple[str | None, str]]:
    return [(one.parked.type, one.outcome) for one in retried]


def types(billing: Replicas) -> list[str]:
    return [headers["ce_type"] for _, headers, _ in published(billing.database)]


def everything(billing: Replicas) -> dict[str, list[tuple[Any, ...]]]:
    """All rows, but for where in Kafka they come from and the numbers of journal and outbox."""
    tables = ("accounts", "payments", "ledger", "keys", "parked")
    rows = {table: sorted(billing.database.rows(f"SELECT * FROM {table}"), key=repr) for table in tables}
    rows["outbox"] = billing.database.rows("SELECT event_id, value, headers FROM outbox ORDER BY position")
    rows["journal"] = billing.database.rows(
        "SELECT id, step, outcome, refusal FROM journal ORDER BY position"
    )
    return rows


async def hear_everything(
    replicas: Replicas, decider: Decider[Billing], users: list[Event[Fact]], orders: list[Event[Fact]]
) -> None:
    """Registrations first, then orders; each from its own topic."""
    kernel = await replicas.kernel(decider, now=lambda: MONDAY)
    reader, other = await replicas.reader(kernel, "user-events"), await replicas.reader(kernel)
    await asyncio.gather(*map(reader.put, users))
    await asyncio.gather(*map(other.put, orders))


async def test_after_the_fix_a_retry_ends_where_an_unbroken_run_ends(
    billing: Replicas, postgres: Postgres, templates: dict[str, str]
) -> None:
    ada, eve = uuid4(), uuid4()
    users = [an_event(registered(person)) for person in (ada, eve)]
    orders = [an_event(ordered(person, price)) for price in (10, 20) for person in (eve, ada)]
    await hear_everything(billing, raises_for(ada, UserRegistered), users, orders)
    assert [key for key, _, _ in parked_rows(billing.database)] == [str(ada)] * 3
    retried = await Desk(billing).retry(ada, now=lambda: MONDAY)
    assert outcomes(retried) == [("UserRegistered", "applied")] + [("OrderCreated", "applied")] * 2
    assert [one.decided for one in retried] == [("AccountCreated",)] + [("PaymentRejected",)] * 2
    async with replicas("billing", DECIDER, STORE, postgres, templates) as unbroken:
        await hear_everything(unbroken, DECIDER, users, orders)
        mended, straight = everything(billing), everything(unbroken)
    for numbered in ("outbox", "journal"):  # Eve's came first here; per key the order is the same
        mended[numbered], straight[numbered] = sorted(mended[numbered]), sorted(straight[numbered])
    assert mended == straight


async def test_a_retry_goes_up_to_the_first_that_fails_again(billing: Replicas) -> None:
    ada = uuid4()
    events = [an_event(registered(ada))], [an_event(ordered(ada, price)) for price in (10, 20)]
    await hear_everything(billing, raises_for(ada, UserRegistered), *events)
    desk = Desk(billing)
    again = await desk.retry(ada, raises_for(ada, OrderCreated))
    assert outcomes(again) == [("UserRegistered", "applied"), ("OrderCreated", "parked")]
    assert balance(billing.database, ada) == 0
    head, behind = await desk.parked()
    assert (head.reason, head.error, behind.reason) == ("handler", "ZeroDivisionError: a bug", "queued")
    assert head.place and head.place.startswith("tests/component/test_kernel.py:")
    assert outcomes(await desk.retry(ada)) == [("OrderCreated", "applied")] * 2


async def test_what_the_database_refuses_stays_parked_and_what_came_before_it_is_kept(
    billing: Replicas,
) -> None:
    ada = uuid4()
    events = [an_event(registered(ada))], [an_event(ordered(ada, 10))]
    await hear_everything(billing, raises_for(ada, UserRegistered), *events)
    desk = Desk(billing)
    again = await desk.retry(ada, overdraws(ada, PaymentRejected))
    assert outcomes(again) == [("UserRegistered", "applied"), ("OrderCreated", "parked")]
    assert balance(billing.database, ada) == 0
    (left,) = await desk.parked()
    assert left.reason == "database" and "balance" in left.error


async def test_while_its_key_waits_for_the_retry_later_events_queue_and_commands_go_on(
    billing: Replicas,
) -> None:
    ada = uuid4()
    kernel = await billing.kernel(raises_for(ada, OrderCreated))
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    await orders.hear(ordered(ada, 30))
    assert (await deposit(kernel, ada, 50)).status == 201
    await orders.hear(ordered(ada, 30))
    retried = await Desk(billing).retry(ada)
    assert [one.decided for one in retried] == [("PaymentConfirmed",), ("PaymentRejected",)]
    assert balance(billing.database, ada) == 20


async def test_events_that_arrive_during_a_retry_come_after_it(billing: Replicas) -> None:
    """Whoever gets the key's lock first: the order of the topic is the order of the steps."""
    ada = uuid4()
    broken = await billing.kernel(raises_for(ada, OrderCreated))
    users, orders = await billing.reader(broken, "user-events"), await billing.reader(broken)
    await users.hear(registered(ada))
    await orders.hear(*(ordered(ada, 1) for _ in range(20)))
    mended = Reader(await billing.kernel(), "order-events", next_offset=orders.next_offset)
    desk = Desk(billing)
    await asyncio.gather(desk.retry(ada), mended.hear(*(ordered(ada, 1) for _ in range(20))))
    await desk.retry(ada)
    assert await desk.parked() == []
    rows = billing.database.rows(
        """SELECT "offset" FROM journal WHERE topic = 'order-events' AND outcome = 'applied' ORDER BY step"""
    )
    assert [offset for (offset,) in rows] == list(range(40))


async def test_a_record_that_could_not_be_read_is_applied_once_it_can(billing: Replicas) -> None:
    """As after an update that knows its version. It came twice meanwhile, and counts once."""
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    await deposit(kernel, ada, 50)
    record = encode(an_event(ordered(ada, 30)))
    await orders.put_unreadable(record)
    await orders.put_unreadable(record)
    await orders.put(an_event(ordered(ada, 5)))
    retried = await Desk(billing).retry(ada)
    assert [one.outcome for one in retried] == ["applied", "duplicate", "applied"]
    assert types(billing).count(PaymentConfirmed.__name__) == 2
    assert balance(billing.database, ada) == 15


async def test_the_readable_copy_of_an_unreadable_record_counts_once_too(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    event = an_event(ordered(ada, 30))
    await orders.put_unreadable(encode(event))
    await orders.put(event)
    retried = await Desk(billing).retry(ada)
    assert [one.outcome for one in retried] == ["applied", "duplicate"]
    assert types(billing).count("PaymentRejected") == 1


async def test_what_this_service_does_not_hear_is_let_go(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    orders = await billing.reader(kernel)
    await orders.put_unreadable(encode(an_event(ordered(ada, 30))))
    desk = Desk(billing)
    retried = await desk.retry(ada, consumes=(UserRegistered,))
    assert [one.outcome for one in retried] == ["skipped"]
    assert await desk.parked() == []
    assert billing.database.count("payments") == 0


async def test_what_is_still_unreadable_stays_with_its_reason(billing: Replicas) -> None:
    kernel = await billing.kernel()
    orders = await billing.reader(kernel)
    await orders.put_undecodable(b"ada", b"{")
    desk = Desk(billing)
    (retried,) = await desk.retry("ada")
    assert (retried.outcome, retried.parked.error) == ("parked", "the header ce_type is missing")
    assert [row.record_value for row in await desk.parked()] == [b"{"]


async def test_a_header_without_a_value_is_parked_and_kept_as_it_is(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    orders = await billing.reader(kernel)
    good = encode(an_event(ordered(ada, 30)))
    headers = [*good.headers, ("x", None), ("x", b"\xff")]
    await orders.put_unreadable(Record(good.key, good.value, headers))
    (row,) = await Desk(billing).parked()
    assert row.record == Record(good.key, good.value, headers)


async def test_a_dropped_event_is_never_applied_and_frees_its_queue(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel(raises_for(ada, OrderCreated))
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    bad, good = await orders.hear(ordered(ada, 30), ordered(ada, 40))
    desk = Desk(billing)
    head, _ = await desk.parked()
    await drop(desk.engine, head)
    (freed,) = await desk.parked()
    assert (freed.id, freed.error) == (good.id, "what it queued behind was dropped: retry it")
    await desk.retry(ada)
    mended = Reader(await billing.kernel(), "order-events", next_offset=orders.next_offset)
    await mended.put(bad)
    rows = billing.database.rows(
        "SELECT id, outcome FROM journal WHERE type = 'OrderCreated' ORDER BY position"
    )
    assert rows == [(bad.id, "dropped"), (good.id, "applied")]
    assert billing.database.rows("SELECT amount FROM payments") == [(40,)]
