"""A database that is half there, and inputs it cannot take: what is concerned waits, all the others go on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg import sql

from billing_service.service import service
from billing_service.state import Billing
from choreo.chassis import clock
from choreo.chassis.database import connection
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe import watchdog
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.inputs import Unavailable
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.store import PostgresStore
from choreo.chassis.transaction.transaction import Transaction
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record, encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.signing_key import SigningKeyPublished
from events.billing import MoneyDeposited
from tests.component.alone import Reader, an_event
from tests.component.test_kernel import (
    DECIDER,
    Outage,
    Replicas,
    balance,
    billing,
    deposit,
    next_offsets,
    ordered,
    outage,
    parked,
    registered,
)
from tests.databases import Database
from tests.locks import held
from tests.shop import PATIENCE, eventually

__all__ = ["billing", "outage"]


class Watched:
    """One kernel, and what its job says."""

    def __init__(self, shop: Replicas, decider: Any = DECIDER, *, run: bool = True) -> None:
        self.job = Job()
        self.database = shop.database
        self.kernel: Kernel[Any] = Kernel(
            decider,
            PostgresStore(shop.engine(), service(Settings()).store),
            partition_of=lambda key: partition_of(key, 3),
            clock=clock.now,
            meter=Meter(CollectorRegistry()),
            job=self.job,
        )
        if run:
            shop.run(self.kernel)
        self._shop = shop

    async def reader(self, topic: str = "order-events", partition: int = 0) -> Reader:
        return await self._shop.reader(self.kernel, topic, partition)

    async def says(self, *words: str) -> str:
        async def cause() -> str:
            return self.job.state.cause or ""

        return await eventually(cause, lambda said: all(word in said for word in words))

    async def gets_on(self) -> None:
        async def ready() -> bool:
            return self.job.state.ready

        await eventually(ready, bool)


@pytest.fixture
async def watched(billing: Replicas) -> Watched:
    return Watched(billing)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait less long."""
    monkeypatch.setattr("choreo.chassis.transaction.kernel.ANSWER_TIMEOUT_SECONDS", 0.2)


# The database away.


async def test_all_who_asked_gave_up_and_the_service_comes_back_by_itself(
    watched: Watched, outage: Outage, impatient: None
) -> None:
    """More than one batch of commands, and nothing else: nobody who is let in would bring the news."""
    ada = uuid4()
    await (await watched.reader("user-events")).hear(registered(ada))
    outage.begin()
    asked = [asyncio.ensure_future(deposit(watched.kernel, ada, 1)) for _ in range(600)]
    given_up = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in given_up)
    assert not watched.job.state.ready and not watched.job.state.serves
    outage.end()
    await watched.gets_on()
    assert (await deposit(watched.kernel, ada, 5)).status == 201


@contextmanager
def stopped(database: Database) -> Iterator[None]:
    """Every process that serves this database's sessions, by SIGSTOP: connected, and silent."""
    pids = [pid for (pid,) in database.rows(_SESSIONS)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def test_a_session_that_falls_silent_is_given_up_for_another(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_SECONDS", 0.5)
    ada = uuid4()
    users = await watched.reader("user-events")
    await users.hear(registered(ada))
    with stopped(watched.database):
        await users.hear(registered(uuid4()))
        assert (await deposit(watched.kernel, ada, 5)).status == 201
    await watched.gets_on()
    assert balance(watched.database, ada) == 5


async def test_sessions_that_began_read_only_are_thrown_away(
    watched: Watched, postgres: Postgres, billing: Replicas
) -> None:
    ada = uuid4()
    await (await watched.reader("user-events")).hear(registered(ada))
    name = sql.Identifier(billing.database.name)
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [billing.database.name],
        )
        asked = asyncio.ensure_future(deposit(watched.kernel, ada, 5))
        await watched.says("read-only")
        admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    assert (await asked).status == 201
    await watched.gets_on()


async def test_a_table_that_is_not_what_the_code_says_is_named_and_nothing_parks(watched: Watched) -> None:
    ada = uuid4()
    users, orders = await watched.reader("user-events"), await watched.reader()
    await users.hear(registered(ada))
    with psycopg.connect(watched.database.owner_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE payments RENAME TO payments_of_before")
        heard = orders.put(an_event(ordered(ada, 1)))
        said = await watched.says('relation "payments" does not exist')
        assert "not as this program needs it" in said
        owner.execute("ALTER TABLE payments_of_before RENAME TO payments")
    await heard
    await watched.gets_on()
    assert parked(watched.database) == []
    assert watched.database.count("payments") == 1


async def test_a_kernel_that_waits_for_what_never_comes_is_begun_anew_with_all_it_was_given(
    billing: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "RESTART_AFTER_SECONDS", 0.2)
    ada = uuid4()
    watched = Watched(billing, run=False)
    lock_and_load = Transaction.lock_and_load
    hung = asyncio.Event()

    async def hangs_once(*arguments: Any) -> Any:
        monkeypatch.setattr(Transaction, "lock_and_load", lock_and_load)
        hung.set()
        await asyncio.Event().wait()

    users = await watched.reader("user-events")
    running = asyncio.ensure_future(watchdog.watched(watched.kernel.run, watched.job, "kernel"))
    try:
        await users.hear(registered(ada))
        monkeypatch.setattr(Transaction, "lock_and_load", hangs_once)
        asked = asyncio.ensure_future(deposit(watched.kernel, ada, 5))
        await hung.wait()
        assert (await asked).status == 201
    finally:
        await watchdog.cancel(running)
    assert balance(watched.database, ada) == 5


# Something locked.


async def test_a_locked_key_holds_up_itself_and_its_partition_and_the_holder_is_named(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, eve = uuid4(), uuid4()
    users = await watched.reader("user-events")
    orders, others = await watched.reader("order-events", 0), await watched.reader("order-events", 1)
    await users.hear(registered(ada), registered(eve))
    lock = "SELECT 1 FROM keys WHERE key = %s FOR UPDATE"
    async with held(watched.database.owner_url, lock, str(ada)) as by:
        behind = [orders.put(an_event(ordered(person, 1))) for person in (ada, eve)]
        said = await watched.says(str(ada), f"pid {by.conn.info.backend_pid}")
        assert said and watched.job.state.serves, "other users' requests can be taken"
        with monkeypatch.context() as patch, pytest.raises(Unavailable):
            patch.setattr("choreo.chassis.transaction.kernel.ANSWER_TIMEOUT_SECONDS", 0.2)
            await deposit(watched.kernel, ada, 1)
        assert (await deposit(watched.kernel, eve, 7)).status == 201
        await others.hear(ordered(eve, 1), ordered(eve, 1))
        await users.hear(registered(uuid4()))
        assert not any(one.done() for one in behind), "a partition is read in its order"
    await asyncio.gather(*behind)
    await watched.gets_on()
    assert next_offsets(watched.database)["order-events", 0] == 2
    assert parked(watched.database) == []


async def test_however_much_waits_behind_locked_keys_there_is_room_for_the_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each partition is paused by itself once it does not get on."""
    monkeypatch.setattr("choreo.chassis.transaction.kernel.QUEUE_SOFT_LIMIT", 4)
    ada, eve = uuid4(), uuid4()
    users = await watched.reader("user-events")
    orders, others = await watched.reader("order-events", 0), await watched.reader("order-events", 1)
    await users.hear(registered(ada), registered(eve))
    async with held(watched.database.owner_url, "SELECT 1 FROM keys WHERE key = %s FOR UPDATE", str(ada)):
        behind = [orders.put(an_event(ordered(ada, 1))) for _ in range(8)]
        await watched.says(str(ada))
        await others.hear(ordered(eve, 1))
        await asyncio.wait_for(watched.kernel.room(), PATIENCE)
        assert not any(one.done() for one in behind)
    await asyncio.gather(*behind)
    await watched.gets_on()


async def test_a_locked_position_holds_up_its_partition_alone(watched: Watched) -> None:
    ada = uuid4()
    users = await watched.reader("user-events")
    orders, others = await watched.reader("order-events", 0), await watched.reader("order-events", 1)
    await users.hear(registered(ada))
    lock = "SELECT 1 FROM positions WHERE topic = 'order-events' AND partition = 0 FOR UPDATE"
    async with held(watched.database.owner_url, lock):
        behind = orders.put(an_event(ordered(ada, 1)))
        await watched.says("order-events[0]", "is locked by")
        await others.hear(ordered(ada, 1))
        assert (await deposit(watched.kernel, ada, 5)).status == 201
    await behind
    await watched.gets_on()


async def test_a_row_of_one_user_that_is_locked_holds_up_nobody_else(
    watched: Watched, impatient: None
) -> None:
    people = [uuid4() for _ in range(8)]
    await (await watched.reader("user-events")).hear(*map(registered, people))
    unlucky = people[3]
    lock = "SELECT 1 FROM accounts WHERE user_id = %s FOR UPDATE"
    async with held(watched.database.owner_url, lock, unlucky):
        others = [person for person in people if person != unlucky]
        late = asyncio.ensure_future(deposit(watched.kernel, unlucky, 1))

        async def all_others() -> list[int | None]:
            for person in others:
                if not balance(watched.database, person):
                    await asyncio.gather(deposit(watched.kernel, person, 1), return_exceptions=True)
            return [balance(watched.database, person) for person in others]

        await eventually(all_others, lambda found: all(found))
        with pytest.raises(Unavailable):
            await late
    await watched.gets_on()
    assert (await deposit(watched.kernel, unlucky, 1)).status == 201


# Inputs that cannot be written.


def a_key(kid: str) -> Event[Fact]:
    return an_event(SigningKeyPublished(kid=kid, public_jwk={"kty": "OKP"}, not_after=datetime.now(UTC)))


@pytest.mark.parametrize("kid", ["a\0b", os.urandom(4096).hex()], ids=["a NUL", "8 KB"])
async def test_a_key_that_cannot_be_stored_is_parked_under_one_that_can(watched: Watched, kid: str) -> None:
    users = await watched.reader("user-events")
    for record in (encode(a_key(kid)), encode(a_key("good"))):
        await users.put_record(record, [SigningKeyPublished])
    ((key, raw, error),) = watched.database.rows("SELECT key, record_key, error FROM parked")
    assert key.startswith("sha256:") and raw == kid.encode()
    assert "cannot be stored" in error
    assert watched.database.rows("SELECT kid FROM signing_keys") == [("good",)]
    await watched.gets_on()


async def test_a_time_that_its_offset_takes_out_of_range_is_parked(watched: Watched) -> None:
    users = await watched.reader("user-events")
    record = encode(a_key("late"))
    value = record.value or b""
    there = value.split(b'"not_after":"')[1].split(b'"')[0]
    late = Record(record.key, value.replace(there, b"9999-12-31T23:59:59-10:00"), record.headers)
    await users.put_record(late, [SigningKeyPublished])
    ((error,),) = watched.database.rows("SELECT error FROM parked")
    assert "not_after" in error and "out of range" in error
    await users.put(a_key("good"))
    await watched.gets_on()


@pytest.mark.parametrize("as_fact", [True, False], ids=["a fact", "a command"])
async def test_what_the_driver_cannot_even_send_is_the_inputs_fault(billing: Replicas, as_fact: bool) -> None:
    """A number that fits no column: the error comes from the driver and has no SQLSTATE."""
    people = [uuid4() for _ in range(8)]
    unlucky = people[5]

    def evolve(state: Billing, event: Event[Fact]) -> Billing:
        state = DECIDER.evolve(state, event)
        wanted = "AccountCreated" if as_fact else MoneyDeposited.__name__
        if event.type == wanted and event.key == str(unlucky):
            assert state.account
            return replace(state, account=replace(state.account, balance=2**70))
        return state

    watched = Watched(billing, replace(DECIDER, evolve=evolve))
    await (await watched.reader("user-events")).hear(*map(registered, people))
    await asyncio.gather(*(deposit(watched.kernel, person, 1) for person in people), return_exceptions=True)
    if as_fact:
        assert [(key, reason) for key, reason, _ in parked(watched.database)] == [(str(unlucky), "database")]
    assert [balance(watched.database, person) for person in people if person != unlucky] == [1] * 7
    await watched.gets_on()
