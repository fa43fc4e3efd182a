"""The delivery promise on the real Postgres, with billing and users as its passengers."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from billing_service.commands import Deposit, InsufficientFunds, NoAccount, Withdraw
from billing_service.service import decider as billing_decider
from billing_service.state import Billing
from billing_service.store import STORE as BILLING
from choreo.chassis import clock
from choreo.chassis.database.connection import make_engine, session
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe.meter import Meter
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.inputs import (
    Decided,
    Failed,
    Input,
    KeyReused,
    PositionGap,
    Reply,
    Unavailable,
)
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.state_store import Store
from choreo.chassis.transaction.step import Decider
from choreo.chassis.transaction.store import PostgresStore, PostgresTransaction
from choreo.embedded.postgres import Postgres
from choreo.message.codec import encode
from choreo.message.decider import Command
from choreo.message.envelope import Cause, Event, derived_id
from choreo.message.fact import Fact
from events.billing import AccountCreated, MoneyDeposited
from events.order import OrderCreated
from events.user import UserRegistered
from tests.component.alone import NEVER, Reader, an_event
from tests.databases import Database, a_database
from tests.locks import held
from tests.shop import eventually
from user_service.commands import EmailTaken, LoginTaken, Register
from user_service.service import decider as user_decider
from user_service.store import STORE as USERS

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)


class Replicas:
    """Kernels on one database, as in processes of their own. What one is given before `run` is a batch."""

    def __init__(self, database: Database, decider: Decider[Any], states: Store[Any]) -> None:
        self.database = database
        self._decider = decider
        self._states = states
        self._stack = AsyncExitStack()
        self._engines: list[AsyncEngine] = []

    async def kernel(
        self,
        decider: Decider[Any] | None = None,
        now: Callable[[], datetime] = clock.now,
        *,
        run: bool = True,
    ) -> Kernel[Any]:
        kernel = Kernel(
            decider or self._decider,
            PostgresStore(self.engine(), self._states),
            partition_of=lambda key: partition_of(key, 3),
            clock=now,
            meter=Meter(CollectorRegistry()),
        )
        if run:
            self.run(kernel)
        return kernel

    def engine(self) -> AsyncEngine:
        engine = make_engine(self.database.runtime_url)
        self._engines.append(engine)
        self._stack.push_async_callback(engine.dispose)
        return engine

    def run(self, kernel: Kernel[Any]) -> None:
        running = asyncio.ensure_future(kernel.run())

        async def stop() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        self._stack.push_async_callback(stop)

    async def reader(self, kernel: Kernel[Any], topic: str = "order-events", partition: int = 0) -> Reader:
        return await Reader(kernel, topic, partition).begin(self._engines[0])

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def replicas(
    service: str, decider: Decider[Any], states: Store[Any], postgres: Postgres, templates: dict[str, str]
) -> AsyncIterator[Replicas]:
    with a_database(service, postgres, templates) as database:
        found = Replicas(database, decider, states)
        try:
            yield found
        finally:
            await found.close()


DECIDER = billing_decider(Settings())


@pytest.fixture
async def billing(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Replicas]:
    async with replicas("billing", DECIDER, BILLING, postgres, templates) as found:
        yield found


@pytest.fixture
async def users(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Replicas]:
    async with replicas("user", user_decider(), USERS, postgres, templates) as found:
        yield found


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What the database refused, each time a batch had to be halved for it."""
    found: list[Exception] = []
    isolate = Kernel._isolate

    async def noticed(kernel: Kernel[Any], batch: list[Input], error: Exception) -> None:
        found.append(error)
        await isolate(kernel, batch, error)

    monkeypatch.setattr(Kernel, "_isolate", noticed)
    return found


# Words the tests are written in.


def answered(decided: Decided) -> Reply:
    if decided.refusal:
        return Reply(409, type(decided.refusal).__name__.encode())
    return Reply(201, str(decided.events[0].id).encode())


async def asked(kernel: Kernel[Any], command: Command, fingerprint: bytes = b"") -> Reply:
    reply = await kernel.ask(command, answered, fingerprint=fingerprint)
    assert reply is not None
    return reply


async def deposit(kernel: Kernel[Any], user: UUID, amount: int, name: str | None = None) -> Reply:
    """`name` is what an idempotency key would be."""
    cause = Cause.root(derived_id(user, name or uuid4()))
    return await asked(kernel, Deposit(cause=cause, user_id=user, amount=amount), b"%d" % amount)


async def withdraw(kernel: Kernel[Any], user: UUID, amount: int) -> Reply:
    return await asked(kernel, Withdraw(cause=Cause.root(uuid4()), user_id=user, amount=amount))


def registered(user: UUID) -> UserRegistered:
    return UserRegistered(user_id=user, login=f"ada-{user}", email=f"{user}@example.com")


def ordered(user: UUID, price: int) -> OrderCreated:
    return OrderCreated(order_id=uuid4(), user_id=user, price=price, description=None, decide_by=NEVER)


def balance(database: Database, user: UUID) -> int | None:
    rows = database.rows("SELECT balance FROM accounts WHERE user_id = %s", user)
    return rows[0][0] if rows else None


def next_offsets(database: Database) -> dict[tuple[str, int], int]:
    rows = database.rows("SELECT topic, partition, next_offset FROM positions")
    return {(topic, partition): next_offset for topic, partition, next_offset in rows}


def published(database: Database) -> list[tuple[str, dict[str, str], bytes]]:
    """Key, headers and value of all that waits in the outbox, in the order it will go out."""
    rows = database.rows("SELECT key, headers, value FROM outbox ORDER BY position")
    return [(key, dict(orjson.loads(headers)), value) for key, headers, value in rows]


def parked(database: Database) -> list[tuple[str, str, int]]:
    return database.rows('SELECT key, reason, "offset" FROM parked ORDER BY position')


TABLES = ("journal", "outbox", "parked", "accounts", "payments", "ledger", "keys")


def written(database: Database) -> dict[str, int]:
    return {table: database.count(table) for table in TABLES}


def raises_for(user: UUID, on: type[Fact]) -> Decider[Billing]:
    """Billing with a bug that only this user meets."""

    def evolve(state: Billing, event: Event[Fact]) -> Billing:
        if isinstance(event.data, on) and event.key == str(user):
            raise ZeroDivisionError("a bug")
        return DECIDER.evolve(state, event)

    return replace(DECIDER, evolve=evolve)


def overdraws(user: UUID, on: type[Fact]) -> Decider[Billing]:
    """Billing with a bug that no line of ours notices: CHECK (balance >= 0) does."""

    def evolve(state: Billing, event: Event[Fact]) -> Billing:
        state = DECIDER.evolve(state, event)
        if isinstance(event.data, on) and event.key == str(user):
            assert state.account
            return replace(state, account=replace(state.account, balance=-1))
        return state

    return replace(DECIDER, evolve=evolve)


# Every input takes effect exactly once.


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
@pytest.mark.parametrize("again_at", [0, 1], ids=["at its offset", "at another offset"])
async def test_a_fact_heard_twice_applies_once(billing: Replicas, together: bool, again_at: int) -> None:
    ada = uuid4()
    kernel = await billing.kernel(run=not together)
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    account = users.put(an_event(registered(ada)))
    if not together:
        await account
        await deposit(kernel, ada, 400_00)
    event = an_event(ordered(ada, 100_00))
    first = orders.put(event)
    if not together:
        await first
    again = orders.put(event, offset=again_at)
    if together:
        billing.run(kernel)
    await asyncio.gather(account, first, again)
    outcome = "PaymentRejected" if together else "PaymentConfirmed"
    types = [headers["ce_type"] for _, headers, _ in published(billing.database)]
    assert types.count(outcome) == 1
    assert billing.database.count("payments") == 1
    assert balance(billing.database, ada) == (0 if together else 300_00)
    assert parked(billing.database) == []
    assert next_offsets(billing.database)["order-events", 0] == again_at + 1


async def test_a_whole_topic_again_changes_nothing(billing: Replicas) -> None:
    people = [uuid4() for _ in range(20)]
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    events = await users.hear(*map(registered, people))
    events += await orders.hear(*(ordered(person, 1) for person in people))
    before, told = written(billing.database), published(billing.database)
    replayed = await billing.reader(kernel, "order-events", partition=1)
    await asyncio.gather(*(replayed.put(event) for event in events))
    assert written(billing.database) == before
    assert published(billing.database) == told
    assert next_offsets(billing.database)["order-events", 1] == len(events)


async def test_a_gap_is_refused_and_writes_nothing(billing: Replicas) -> None:
    kernel = await billing.kernel()
    users = await billing.reader(kernel, "user-events")
    before = written(billing.database)
    with pytest.raises(PositionGap, match=r"user-events\[0\]: got offset 1, next is 0"):
        await users.put(an_event(registered(uuid4())), offset=1)
    nowhere = Reader(kernel, "user-events", 7)  # a partition that was never begun
    with pytest.raises(PositionGap):
        await nowhere.put(an_event(registered(uuid4())))
    assert written(billing.database) | {"keys": 0} == before
    assert next_offsets(billing.database) == {("user-events", 0): 0}


async def test_a_hole_in_the_log_is_passed_and_one_in_the_reading_is_not(billing: Replicas) -> None:
    """What lies between was read, and there was nothing; or it was not read."""
    kernel = await billing.kernel()
    users = await billing.reader(kernel, "user-events")
    event = an_event(registered(uuid4()))
    await users.put(event, offset=4, fetched_from=0)
    await users.put_marker(5, 7)
    assert next_offsets(billing.database) == {("user-events", 0): 8}
    before = written(billing.database)
    with pytest.raises(PositionGap, match="got offset 12, next is 8, and it was read from 9 on"):
        await users.put(an_event(registered(uuid4())), offset=12, fetched_from=9)
    with pytest.raises(PositionGap):
        await users.put_marker(9, 12)
    await users.put_marker(5, 7)  # once more
    assert written(billing.database) | {"keys": 0} == before | {"keys": 0}
    last = "SELECT last_offset, last_digest, leader_epoch FROM positions WHERE topic = 'user-events'"
    assert billing.database.rows(last) == [(4, encode(event).digest, -1)]
    await users.put(an_event(registered(uuid4())), offset=9, fetched_from=6)
    assert next_offsets(billing.database) == {("user-events", 0): 10}


async def test_what_is_in_turn_is_committed_beside_a_gap(billing: Replicas) -> None:
    ada, eve = uuid4(), uuid4()
    kernel = await billing.kernel(run=False)
    users = await billing.reader(kernel, "user-events")
    in_turn, too_far = users.put(an_event(registered(ada))), users.put(an_event(registered(eve)), offset=2)
    billing.run(kernel)
    await in_turn
    with pytest.raises(PositionGap):
        await too_far
    assert billing.database.rows("SELECT user_id FROM accounts") == [(ada,)]
    assert next_offsets(billing.database) == {("user-events", 0): 1}


async def test_a_stale_offset_is_ignored_whatever_it_holds(billing: Replicas) -> None:
    ada, eve = uuid4(), uuid4()
    kernel = await billing.kernel()
    users = await billing.reader(kernel, "user-events")
    await users.hear(registered(ada))
    await users.put_marker(1, 1)
    last = an_event(registered(eve))
    await users.put(last, offset=2)
    before = written(billing.database)
    await users.put(an_event(registered(uuid4())), offset=0)
    await users.put(last, offset=2)
    assert written(billing.database) | {"keys": 0} == before | {"keys": 0}
    assert next_offsets(billing.database) == {("user-events", 0): 3}


async def test_what_a_log_grows_after_a_cut_is_not_taken_for_what_was_read(billing: Replicas) -> None:
    """Who held the partition before has written what the log held until then: nobody reads on behind it."""
    kernel = await billing.kernel(run=False)
    users = await billing.reader(kernel, "user-events")
    instead = users.put(an_event(registered(uuid4())), leader_epoch=1)
    behind = users.put(an_event(registered(uuid4())), epoch_before=1, leader_epoch=1)
    zombie = await billing.reader(await billing.kernel(), "user-events")
    await zombie.put(an_event(registered(uuid4())), leader_epoch=0)
    before = written(billing.database)
    billing.run(kernel)
    for waits in (instead, behind):
        with pytest.raises(PositionGap):
            await waits
    assert written(billing.database) | {"keys": 0} == before | {"keys": 0}


@pytest.mark.parametrize(
    ("found", "is_next"),
    [
        ({"epoch_before": 1, "leader_epoch": 1}, True),
        ({"leader_epoch": 1}, True),
        ({"epoch_before": 1, "leader_epoch": 2}, True),
        ({"epoch_before": 2, "leader_epoch": 2}, False),
        ({"leader_epoch": 2}, False),
        ({"fetched_from": 3, "epoch_before": 1, "leader_epoch": 2}, False),
        ({"epoch_before": 0, "leader_epoch": 0}, False),
    ],
    ids=[
        "of the leader of before",
        "of the leader of before and a chunk was lost",
        "of a new leader",
        "of a new leader and another thing before it",
        "of a new leader and a chunk was lost",
        "of a new leader and nothing where a record was read",
        "of an older leader",
    ],
)
@pytest.mark.parametrize("ends", ["a record", "a record that a version of before has read", "a marker"])
@pytest.mark.parametrize("comes", ["a record", "a marker"])
async def test_what_is_next_stands_behind_what_was_read(
    billing: Replicas, ends: str, comes: str, found: dict[str, Any], is_next: bool
) -> None:
    """Which offset and leader together tell."""
    users = await billing.reader(await billing.kernel(), "user-events")
    await users.put(an_event(registered(uuid4())), leader_epoch=0)
    if ends != "a marker":
        await users.put(
            an_event(registered(uuid4())), offset=4, fetched_from=1, epoch_before=0, leader_epoch=1
        )
    else:
        await users.put_marker(1, 4, epoch_before=0, leader_epoch=1)
    if ends == "a record that a version of before has read":
        with psycopg.connect(billing.database.owner_url) as conn:
            conn.execute("UPDATE positions SET end_offset = 1, end_epoch = 0")
    before = written(billing.database)
    if comes == "a record":
        heard = users.put(an_event(registered(uuid4())), offset=5, **found)
    else:
        heard = users.put_marker(offset=5, **{"fetched_from": 5} | found)
    if is_next:
        await heard
        assert next_offsets(billing.database) == {("user-events", 0): 6}
    else:
        with pytest.raises(PositionGap, match="another log"):
            await heard
        assert written(billing.database) | {"keys": 0} == before | {"keys": 0}


async def test_what_was_read_before_is_of_no_newer_leader(billing: Replicas) -> None:
    users = await billing.reader(await billing.kernel(), "user-events")
    events = [an_event(registered(uuid4())) for _ in range(2)]
    for epoch, event in enumerate(events):
        await users.put(event, epoch_before=epoch - 1, leader_epoch=epoch)
    before = written(billing.database)
    await users.put(events[0], offset=0, leader_epoch=0)
    with pytest.raises(PositionGap, match="another log"):
        await users.put(events[0], offset=0, leader_epoch=2)
    assert written(billing.database) | {"keys": 0} == before | {"keys": 0}


async def test_a_zombie_reads_in_vain(billing: Replicas) -> None:
    """Two replicas read one partition: what one of them committed the other does not apply again."""
    people = [uuid4() for _ in range(50)]
    readers = [await billing.reader(await billing.kernel(), "user-events") for _ in range(2)]
    events = [an_event(registered(person)) for person in people]
    await asyncio.gather(*(reader.put(event) for event in events for reader in readers))
    assert billing.database.count("accounts") == billing.database.count("outbox") == 50
    assert billing.database.count("journal") == 50
    assert next_offsets(billing.database) == {("user-events", 0): 50}


async def test_a_command_repeated_finds_its_first_answer(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    first = await deposit(kernel, ada, 5, "once")
    assert await deposit(kernel, ada, 5, "once") == first
    elsewhere = await billing.kernel()
    assert await deposit(elsewhere, ada, 5, "once") == first
    with pytest.raises(KeyReused):
        await deposit(elsewhere, ada, 6, "once")
    assert balance(billing.database, ada) == 5


async def test_a_repeat_within_a_batch_is_recognised_before_the_database_refuses_it(
    billing: Replicas, refusals: list[Exception]
) -> None:
    ada = uuid4()
    kernel = await billing.kernel(run=False)
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    event = an_event(ordered(ada, 1))
    heard = [users.put(an_event(registered(ada))), orders.put(event), orders.put(event)]
    asked = [asyncio.ensure_future(deposit(kernel, ada, 1, "once")) for _ in range(2)]
    billing.run(kernel)  # begins when all of them are in the queue
    first, again = await asyncio.gather(*asked)
    await asyncio.gather(*heard)
    assert first == again
    assert balance(billing.database, ada) == 1
    assert refusals == []


async def test_ids_and_bytes_are_derived_from_the_inputs(
    billing: Replicas, postgres: Postgres, templates: dict[str, str]
) -> None:
    """Deciding the same on a fresh copy of the database gives the same events, byte for byte."""
    ada = uuid4()
    heard = [an_event(ordered(ada, 30)), an_event(registered(ada)), an_event(ordered(ada, 20))]

    async def history(replicas: Replicas) -> list[tuple[Any, ...]]:
        kernel = await replicas.kernel(now=lambda: MONDAY)
        reader = await replicas.reader(kernel)
        for event in heard[:2]:
            await reader.put(event)
        await deposit(kernel, ada, 25, "salary")
        await reader.put(heard[2])
        return replicas.database.rows(
            "SELECT event_id, key, partition, value, headers, decided_at FROM outbox ORDER BY position"
        )

    async with replicas("billing", DECIDER, BILLING, postgres, templates) as copy:
        first, second = await history(billing), await history(copy)
    assert first == second
    types = [dict(orjson.loads(headers))["ce_type"] for *_, headers, _ in first]
    assert types == ["AccountCreated", "PaymentRejected", "MoneyDeposited", "PaymentConfirmed"]


# One key, one order.


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_two_withdrawals_of_300_on_400_one_is_refused(billing: Replicas, processes: int) -> None:
    people = [uuid4() for _ in range(100)]
    kernels = [await billing.kernel() for _ in range(processes)]
    await (await billing.reader(kernels[0], "user-events")).hear(*map(registered, people))
    await asyncio.gather(*(deposit(kernels[0], person, 400_00) for person in people))

    async def race(person: UUID) -> list[int]:
        answers = await asyncio.gather(
            *(withdraw(kernel, person, 300_00) for kernel in kernels * (2 // processes))
        )
        return sorted(answer.status for answer in answers)

    for start in range(0, len(people), 10):  # ten rounds, so that the replicas meet again and again
        outcomes = await asyncio.gather(*map(race, people[start : start + 10]))
        assert outcomes == [[201, 409]] * 10
    assert {balance(billing.database, person) for person in people} == {100_00}
    assert_in_sequence(billing.database)


async def test_replicas_race_on_one_account_with_facts_and_commands(billing: Replicas) -> None:
    """One process reads orders while both take deposits and withdrawals of the same user."""
    ada = uuid4()
    here, there = await billing.kernel(), await billing.kernel()
    users, orders = await billing.reader(here, "user-events"), await billing.reader(here)
    await users.hear(registered(ada))
    await deposit(here, ada, 100)
    heard = [orders.put(an_event(ordered(ada, 30))) for _ in range(20)]
    asked = [
        asyncio.ensure_future(ask(kernel, ada, 10))
        for _ in range(20)
        for kernel in (here, there)
        for ask in (deposit, withdraw)
    ]
    answers = await asyncio.gather(*asked)
    await asyncio.gather(*heard)
    assert {answer.status for answer in answers} <= {201, 409}
    ((legs, least),) = billing.database.rows(
        "SELECT sum(amount)::bigint, min(balance) FROM ledger WHERE side = 'customer'"
    )
    assert balance(billing.database, ada) == legs
    assert least >= 0
    outcomes = [headers["ce_type"] for _, headers, _ in published(billing.database)]
    assert outcomes.count("PaymentConfirmed") + outcomes.count("PaymentRejected") == 20
    assert_in_sequence(billing.database)


ONE_KEY = "SELECT FROM keys WHERE key = %s FOR UPDATE"


async def test_what_is_decided_from_is_not_older_than_the_lock(billing: Replicas) -> None:
    """Two replicas begin at once and wait for the same user: the second sees what the first left."""
    ada = uuid4()
    kernels = [await billing.kernel() for _ in range(2)]
    await (await billing.reader(kernels[0], "user-events")).hear(registered(ada))
    await deposit(kernels[0], ada, 400)
    async with held(billing.database.owner_url, ONE_KEY, str(ada)) as key:
        wishes = [asyncio.ensure_future(withdraw(kernel, ada, 300)) for kernel in kernels]
        wishes += [asyncio.ensure_future(deposit(kernel, ada, 1)) for kernel in kernels]
        await key.keeps_waiting(sessions=2)
    answers = await asyncio.gather(*wishes)
    assert sorted(answer.status for answer in answers) == [201, 201, 201, 409]
    assert balance(billing.database, ada) == 102
    assert_in_sequence(billing.database)


async def test_what_goes_out_first_was_decided_first_whoever_began_first(billing: Replicas) -> None:
    """A transaction that began earlier and got the key later does not have the lower outbox position."""
    ada = uuid4()
    here, there = await billing.kernel(), await billing.kernel()
    orders = await billing.reader(here)
    await (await billing.reader(here, "user-events")).hear(registered(ada))
    partition = "SELECT FROM positions WHERE topic = 'order-events' FOR UPDATE"
    async with held(billing.database.owner_url, partition) as position:
        order = orders.put(an_event(ordered(ada, 1)))
        await position.keeps_waiting(sessions=1)
        await deposit(there, ada, 1)
    await order
    types = [headers["ce_type"] for _, headers, _ in published(billing.database)]
    assert types == ["AccountCreated", "MoneyDeposited", "PaymentConfirmed"]
    assert_in_sequence(billing.database)


def assert_in_sequence(database: Database) -> None:
    """Per key the outbox is in the order of decisions, and no number is there twice."""
    numbers: dict[str, list[int]] = {}
    for key, headers, _ in published(database):
        numbers.setdefault(key, []).append(int(headers["ce_sequence"]))
    for key, found in numbers.items():
        assert found == sorted(set(found)), key
    latest = {key: found[-1] for key, found in numbers.items()}
    sequences: dict[str, int] = dict(database.rows("SELECT key, sequence FROM keys"))
    assert all(sequences[key] == number for key, number in latest.items())


async def test_refusals_and_repeats_take_no_number(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    users = await billing.reader(kernel, "user-events")
    (event,) = await users.hear(registered(ada))
    await users.put(event)
    assert (await withdraw(kernel, ada, 1)).status == 409
    assert await deposit(kernel, ada, 1, "once") == await deposit(kernel, ada, 1, "once")
    assert billing.database.rows("SELECT sequence FROM keys WHERE key = %s", str(ada)) == [(3,)]


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("taken", [LoginTaken, EmailTaken])
async def test_of_those_who_want_one_name_one_gets_it(users: Replicas, processes: int, taken: type) -> None:
    kernels = [await users.kernel() for _ in range(processes)]

    async def register(number: int, capitals: bool, round: int) -> Reply:
        user_id = uuid4()
        wanted = f"ada-{round}".upper() if capitals else f"ada-{round}"
        other = f"{user_id.hex}"
        login, email = (wanted, other) if taken is LoginTaken else (other, wanted)
        command = Register(
            cause=Cause.root(uuid4()), user_id=user_id, login=login, email=f"{email}@example.com"
        )
        return await asked(kernels[number % processes], command)

    for round in range(10):
        attempts = (register(number, number % 4 > 1, round) for number in range(12))
        answers = await asyncio.gather(
            *attempts, *(register(n, False, 1000 + round * 10 + n) for n in range(3))
        )
        raced, alone = answers[:12], answers[12:]
        assert sorted(answer.status for answer in raced) == [201] + [409] * 11
        assert {answer.body for answer in raced if answer.status == 409} == {taken.__name__.encode()}
        assert [answer.status for answer in alone] == [201] * 3
    assert users.database.count("users") == users.database.count("outbox") == 40


async def test_whoever_wants_the_same_name_is_decided_after_the_other_not_beside(
    users: Replicas, refusals: list[Exception]
) -> None:
    """What the first took is there to be seen: nothing is left to the database's constraint."""
    kernel = await users.kernel(run=False)
    wishes = [
        Register(cause=Cause.root(uuid4()), user_id=uuid4(), login="ada", email=f"ada-{number}@example.com")
        for number in range(2)
    ]
    answers = [asyncio.ensure_future(asked(kernel, wish)) for wish in wishes]
    users.run(kernel)  # begins when both are in the queue
    assert [answer.status for answer in await asyncio.gather(*answers)] == [201, 409]
    assert refusals == []


# Trouble becomes data.


async def test_what_is_no_event_is_parked_and_its_key_queues_behind_it(billing: Replicas) -> None:
    ada, eve = uuid4(), uuid4()
    kernel = await billing.kernel(run=False)
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    heard = [
        users.put(an_event(registered(ada))),
        users.put(an_event(registered(eve))),
        orders.put_undecodable(str(ada).encode()),
        orders.put(an_event(ordered(ada, 1))),
        orders.put(an_event(ordered(eve, 1))),
        orders.put_undecodable(None),
        orders.put_undecodable(b"\xff\x00"),
    ]
    billing.run(kernel)
    await asyncio.gather(*heard)
    await orders.hear(ordered(ada, 1), ordered(eve, 1))  # and in later batches, too
    await users.hear(registered(ada))
    rows = parked(billing.database)
    assert [(reason, offset) for key, reason, offset in rows if key == str(ada)] == [
        ("undecodable", 0),
        ("queued", 1),
        ("queued", 5),
        ("queued", 2),
    ]
    assert [(reason, offset) for key, reason, offset in rows if key != str(ada)] == [
        ("undecodable", 3),
        ("undecodable", 4),
    ]
    assert next_offsets(billing.database) == {("user-events", 0): 3, ("order-events", 0): 7}
    assert billing.database.rows("SELECT user_id FROM payments") == [(eve,), (eve,)]
    assert (await deposit(kernel, eve, 1)).status == 201
    assert (await deposit(kernel, ada, 1)).status == 201, "commands do not queue behind events"
    assert_in_sequence(billing.database)


async def test_a_parked_record_is_kept_as_it_was(billing: Replicas) -> None:
    kernel = await billing.kernel()
    orders = await billing.reader(kernel)
    await orders.put_undecodable(b"somebody", b"\x00\xff no JSON")
    ((key, value, error),) = billing.database.rows("SELECT record_key, record_value, error FROM parked")
    assert (key, value) == (b"somebody", b"\x00\xff no JSON")
    assert error == "the header ce_type is missing"


async def test_a_handler_that_raises_for_one_user_parks_that_users_event(billing: Replicas) -> None:
    ada, eve = uuid4(), uuid4()
    kernel = await billing.kernel(raises_for(ada, OrderCreated), run=False)
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    heard = [users.put(an_event(registered(person))) for person in (ada, eve)]
    heard += [orders.put(an_event(ordered(person, 1))) for person in (ada, eve, ada)]
    billing.run(kernel)
    await asyncio.gather(*heard)
    assert parked(billing.database) == [(str(ada), "handler", 0), (str(ada), "queued", 2)]
    ((error, place),) = billing.database.rows("SELECT error, place FROM parked WHERE reason = 'handler'")
    assert error == "ZeroDivisionError: a bug"
    assert "test_kernel.py:" in place
    assert billing.database.rows("SELECT user_id FROM payments") == [(eve,)]
    assert next_offsets(billing.database)["order-events", 0] == 3
    assert (await deposit(kernel, ada, 1)).status == 201


async def test_a_handler_that_raises_for_one_command_fails_that_command(billing: Replicas) -> None:
    ada, eve = uuid4(), uuid4()
    buggy = await billing.kernel(raises_for(ada, MoneyDeposited))
    await (await billing.reader(buggy, "user-events")).hear(registered(ada), registered(eve))
    failed, other = await asyncio.gather(
        deposit(buggy, ada, 1, "once"), deposit(buggy, eve, 1), return_exceptions=True
    )
    assert isinstance(failed, Failed) and isinstance(other, Reply)
    assert (balance(billing.database, ada), balance(billing.database, eve)) == (0, 1)
    mended = await billing.kernel()
    assert (await deposit(mended, ada, 1, "once")).status == 201, "a failure is no answer to keep"


async def test_what_the_database_refuses_stands_alone(billing: Replicas) -> None:
    """A fact that breaks a CHECK parks, a command fails; everybody else in the batch is committed."""
    people = [uuid4() for _ in range(20)]
    unlucky = people[13]
    kernel = await billing.kernel(overdraws(unlucky, MoneyDeposited))
    users = await billing.reader(kernel, "user-events")
    await users.hear(*map(registered, people))
    answers = await asyncio.gather(*(deposit(kernel, person, 1) for person in people), return_exceptions=True)
    assert [index for index, answer in enumerate(answers) if isinstance(answer, Failed)] == [13]
    assert [balance(billing.database, person) for person in people] == [
        0 if person == unlucky else 1 for person in people
    ]
    assert kernel.trouble is None
    assert_in_sequence(billing.database)


async def test_a_fact_the_database_refuses_is_parked(billing: Replicas) -> None:
    people = [uuid4() for _ in range(20)]
    unlucky = people[7]
    kernel = await billing.kernel(overdraws(unlucky, AccountCreated), run=False)
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    heard = [users.put(an_event(registered(person))) for person in people]
    heard += [orders.put(an_event(ordered(person, 1))) for person in people]
    billing.run(kernel)
    await asyncio.gather(*heard)
    assert parked(billing.database) == [(str(unlucky), "database", 7), (str(unlucky), "queued", 7)]
    assert billing.database.count("accounts") == billing.database.count("payments") == 19
    assert next_offsets(billing.database) == {("user-events", 0): 20, ("order-events", 0): 20}
    assert kernel.trouble is None


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
async def test_no_user_takes_over_anothers_row(billing: Replicas, together: bool) -> None:
    ada, eve = uuid4(), uuid4()
    kernel = await billing.kernel(run=not together)
    orders = await billing.reader(kernel)
    ours = ordered(ada, 100)
    theirs = ours.model_copy(update={"user_id": eve})
    first = orders.put(an_event(ours))
    if not together:
        await first
    second = orders.put(an_event(theirs))
    if together:
        billing.run(kernel)
    await asyncio.gather(first, second)
    assert billing.database.rows("SELECT user_id FROM payments") == [(ada,)]
    assert parked(billing.database) == [(str(eve), "database", 1)]
    assert kernel.trouble is None


# All of it or nothing, and nobody is told before.


@pytest.mark.parametrize("table", ["accounts", "ledger", "journal", "outbox", "positions"])
async def test_what_is_decided_is_committed_together_and_only_then_told(
    billing: Replicas, table: str
) -> None:
    """While one table cannot be written, nothing is to be seen in the others, and nobody is answered."""
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    before = written(billing.database), balance(billing.database, ada), next_offsets(billing.database)
    async with held(billing.database.owner_url, f"LOCK TABLE {table} IN SHARE MODE") as lock:
        asked = asyncio.ensure_future(deposit(kernel, ada, 400))
        heard = orders.put(an_event(ordered(ada, 300)))
        await lock.keeps_waiting(sessions=1)
        there = written(billing.database), balance(billing.database, ada), next_offsets(billing.database)
        assert there == before
        assert not asked.done() and not heard.done()
    assert (await asked).status == 201
    await heard


# The database away.


class Outage:
    """This one database sends everybody away and lets nobody in."""

    def __init__(self, postgres: Postgres, database: Database) -> None:
        self._admin_url = postgres.admin_url
        self._name = database.name

    def begin(self) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as admin:
            self._let_in(admin, False)
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                [self._name],
            )

    def end(self) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as admin:
            self._let_in(admin, True)

    def _let_in(self, admin: psycopg.Connection, yes: bool) -> None:
        admin.execute(
            sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(
                sql.Identifier(self._name), sql.Literal(yes)
            )
        )


@pytest.fixture
def outage(postgres: Postgres, billing: Replicas) -> Iterator[Outage]:
    outage = Outage(postgres, billing.database)
    yield outage
    outage.end()


async def test_the_database_goes_away_and_comes_back(
    billing: Replicas, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    await deposit(kernel, ada, 400)

    outage.begin()
    heard = [orders.put(an_event(ordered(ada, 100))) for _ in range(3)]
    with monkeypatch.context() as impatient:
        impatient.setattr("choreo.chassis.transaction.kernel.ANSWER_TIMEOUT_SECONDS", 0.2)
        with pytest.raises(Unavailable):
            await deposit(kernel, ada, 5, "in doubt")
        assert kernel.trouble
        with pytest.raises(Unavailable):  # and now at once
            await deposit(kernel, ada, 5, "in doubt")
    assert not any(done.done() for done in heard), "a fact waits for as long as it takes"

    outage.end()
    await asyncio.gather(*heard)
    assert kernel.trouble is None
    assert [(await deposit(kernel, ada, 5, "in doubt")).status for _ in range(2)] == [201, 201]
    assert balance(billing.database, ada) == 105
    assert billing.database.count("payments") == 3
    assert_in_sequence(billing.database)


async def test_who_asks_alone_while_the_database_is_away_finds_it_back_by_itself(
    billing: Replicas, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits any more that would try again: the kernel has to notice all the same."""
    ada = uuid4()
    kernel = await billing.kernel()
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    outage.begin()
    with monkeypatch.context() as impatient, pytest.raises(Unavailable):
        impatient.setattr("choreo.chassis.transaction.kernel.ANSWER_TIMEOUT_SECONDS", 0.2)
        await deposit(kernel, ada, 5, "in doubt")
    outage.end()

    async def trouble() -> str | None:
        return kernel.trouble

    await eventually(trouble, lambda said: said is None)
    assert (await deposit(kernel, ada, 5, "in doubt")).status == 201
    assert balance(billing.database, ada) == 5


async def test_a_connection_lost_between_transactions_is_not_noticed(
    billing: Replicas, outage: Outage
) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    outage.begin()
    outage.end()
    assert (await deposit(kernel, ada, 5)).status == 201


def loses_the_next_commit(monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """The connection breaks at COMMIT: before the server had it, or after, when only the answer is lost."""
    commit = PostgresTransaction.commit

    async def lose(opened: PostgresTransaction[Any]) -> None:
        monkeypatch.setattr(PostgresTransaction, "commit", commit)
        await (commit(opened) if committed else opened.send())
        await opened.conn.close()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(PostgresTransaction, "commit", lose)


def cut_off(conn: psycopg.AsyncConnection[Any], postgres: Postgres) -> None:
    """The network ends the session: the error has no SQLSTATE."""
    with socket.socket(fileno=os.dup(conn.fileno())) as shared:
        shared.shutdown(socket.SHUT_RDWR)


def sent_away(conn: psycopg.AsyncConnection[Any], postgres: Postgres) -> None:
    with psycopg.connect(**session(postgres.admin_url), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])


@pytest.mark.parametrize("end", [cut_off, sent_away])
async def test_sessions_that_break_one_after_the_other_park_nothing(
    billing: Replicas, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    """Though the database answers in between: whoever asks whether it does gets a session that stays."""
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    commit = PostgresTransaction.commit
    left = 5

    async def break_off(opened: PostgresTransaction[Any]) -> None:
        nonlocal left
        if left:
            left -= 1
            end(opened.conn, postgres)
        await commit(opened)

    monkeypatch.setattr(PostgresTransaction, "commit", break_off)
    await orders.hear(ordered(ada, 30))
    assert (left, parked(billing.database)) == (0, [])
    assert_in_sequence(billing.database)


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_in_doubt_takes_effect_once(
    billing: Replicas, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    users, orders = await billing.reader(kernel, "user-events"), await billing.reader(kernel)
    await users.hear(registered(ada))
    await deposit(kernel, ada, 100)
    loses_the_next_commit(monkeypatch, committed=committed)
    order = orders.put(an_event(ordered(ada, 30)))
    answer = await deposit(kernel, ada, 5, "once")
    await order
    assert answer.status == 201
    assert await deposit(kernel, ada, 5, "once") == answer
    assert balance(billing.database, ada) == 75
    assert billing.database.count("payments") == 1
    assert next_offsets(billing.database)["order-events", 0] == 1
    assert [headers["ce_type"] for _, headers, _ in published(billing.database)].count("MoneyDeposited") == 2
    assert_in_sequence(billing.database)


async def test_a_refusal_says_its_numbers(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    seen: list[Decided] = []

    def look(decided: Decided) -> Reply:
        seen.append(decided)
        return answered(decided)

    await kernel.ask(Withdraw(cause=Cause.root(uuid4()), user_id=ada, amount=7), look)
    assert [decided.refusal for decided in seen] == [InsufficientFunds(balance=0, requested=7)]
    ((refusal,),) = billing.database.rows("SELECT refusal FROM journal WHERE outcome = 'refused'")
    assert refusal == {"type": "InsufficientFunds", "balance": 0, "requested": 7}


async def test_a_refusal_is_given_again_where_it_is_remembered_and_decided_anew_where_it_is_not(
    billing: Replicas,
) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    withdrawal = Withdraw(cause=Cause.root(uuid4()), user_id=ada, amount=7)
    assert not NoAccount.remembered
    assert (await asked(kernel, withdrawal)).body == b"NoAccount"
    assert billing.database.count("journal") == 0
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    assert InsufficientFunds.remembered
    assert (await asked(kernel, withdrawal)).body == b"InsufficientFunds"
    await deposit(kernel, ada, 400)
    assert (await asked(kernel, withdrawal)).body == b"InsufficientFunds"
    assert balance(billing.database, ada) == 400


async def test_who_wants_no_reply_gets_none_and_is_remembered_all_the_same(billing: Replicas) -> None:
    ada = uuid4()
    kernel = await billing.kernel()
    await (await billing.reader(kernel, "user-events")).hear(registered(ada))
    command = Deposit(cause=Cause.root(uuid4()), user_id=ada, amount=7)
    assert [await kernel.ask(command) for _ in range(2)] == [None, None]
    assert balance(billing.database, ada) == 7
    query = "SELECT outcome, answer_status, answer_body FROM journal WHERE kind = 'command'"
    assert billing.database.rows(query) == [("applied", None, None)]
