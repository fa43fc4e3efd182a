"""What the kernel leans on, of every store that it may stand on: Postgres, and the one in memory.

Transactions are interleaved by hand, statement by statement. Where one has to wait, the test knows it: from
Postgres by its locks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as forall
from hypothesis import strategies as st

from billing_service.service import service as billing_service
from billing_service.state import Account, Billing, Payment
from choreo.chassis.database.connection import failure_of, make_engine, raw_connection
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import Decided
from choreo.chassis.transaction.journal import JournalRow
from choreo.chassis.transaction.outbox import OutboxRow
from choreo.chassis.transaction.parked import Parked
from choreo.chassis.transaction.positions import Expected, Position, Reached, TopicPartition
from choreo.chassis.transaction.store import KernelStore, PostgresStore, PostgresTransaction, StoreTransaction
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record
from choreo.simulation.database import Database, Session
from choreo.simulation.store import MemoryStore
from tests.databases import Database as PostgresDatabase
from tests.databases import a_database
from tests.shop import eventually

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
ADA, EVE = sorted(str(uuid4()) for _ in range(2))
USERS, ORDERS = ("user-events", 0), ("order-events", 0)
EVENT, OTHER = uuid4(), uuid4()
RECORD = Record(b"key", b"{}", [])
BILLING = billing_service(Settings()).store
NOTHING = Decided(None, (), None)

Transaction = StoreTransaction[Billing]
LONG = 30.0
"""Seconds that a transaction of these tests waits for a lock, so that a slow machine is no refusal."""


class Stores(Protocol):
    """A service's database, of one kind."""

    @property
    def store(self) -> KernelStore[Billing]: ...

    async def begin(self, *places: TopicPartition) -> None: ...

    async def waiting(self) -> int:
        """So many transactions wait for a lock."""
        ...

    async def patient(self, opened: Any) -> None:
        """This transaction does not give up."""
        ...

    async def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """The committed ones, sorted."""
        ...

    async def write_lease(self, conn: Any, notification: UUID) -> None:
        """A side write: a row that no fact tells of."""
        ...

    async def leases(self) -> int: ...


class InMemory:
    def __init__(self) -> None:
        self.database = Database(BILLING, lock_timeout_seconds=LONG)
        self.store = MemoryStore[Billing](self.database)

    async def begin(self, *places: TopicPartition) -> None:
        self.database.begin(_position(place) for place in places)

    async def waiting(self) -> int:
        return self.database.waiting

    async def patient(self, opened: Any) -> None: ...

    async def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        found = self.database.rows(table)
        return sorted(tuple(getattr(row, column) for column in columns) for row in found)

    async def write_lease(self, conn: Session, notification: UUID) -> None:
        conn.write_beside("leases", notification, notification)

    async def leases(self) -> int:
        return len(self.database.rows("leases"))


class OnPostgres:
    """Billing has no leases: the signing keys' table, which nothing here writes, stands for them."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.engine = make_engine(database.runtime_url, pool_size=8)
        self.store = PostgresStore[Billing](self.engine, BILLING)

    async def begin(self, *places: TopicPartition) -> None:
        async with raw_connection(self.engine) as conn:
            await positions.begin(conn, [_position(place) for place in places])
            await conn.commit()

    async def waiting(self) -> int:
        found = self._database.rows("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        return int(found[0][0])

    async def patient(self, opened: PostgresTransaction[Billing]) -> None:
        await opened.conn.execute(f"SET LOCAL lock_timeout = '{LONG:.0f}s'".encode())

    async def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        return sorted(self._database.rows(f"SELECT {', '.join(columns)} FROM {table}"))

    async def write_lease(self, conn: psycopg.AsyncConnection[Any], notification: UUID) -> None:
        await conn.execute(
            "INSERT INTO signing_keys (kid, public_jwk, not_after) VALUES (%s, '{}', now())",
            [str(notification)],
        )

    async def leases(self) -> int:
        return self._database.count("signing_keys")


def _position(place: TopicPartition) -> Position:
    return Position(*place, 0, "topic", "cluster")


@pytest.fixture(params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "memory":
        yield InMemory()
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with a_database("billing", postgres, request.getfixturevalue("templates")) as database:
        found = OnPostgres(database)
        yield found
        await found.engine.dispose()


@pytest.fixture
async def begin(stores: Stores) -> AsyncIterator[Callable[[], Awaitable[Transaction]]]:
    """Begins a transaction, which is undone at the end of the test if nobody ended it."""
    async with AsyncExitStack() as stack:

        async def open_one() -> Transaction:
            opened = await stack.enter_async_context(stores.store.transaction())
            await stores.patient(opened)
            return opened

        yield open_one


Begin = Callable[[], Awaitable[Transaction]]

# Words the tests are written in.


async def lock(opened: Transaction, *keys: str) -> dict[str, int]:
    sequences = opened.lock_keys(keys)
    await opened.send()
    return sequences()


async def state_of(opened: Transaction, key: str) -> Billing:
    states = opened.load({key: [None]})
    await opened.send()
    return states()[key]


async def seen(opened: Transaction, *ids: UUID) -> set[UUID]:
    found = opened.seen(ids)
    await opened.send()
    return set(found())


def an_account(user: str, balance: int = 0, id: UUID | None = None) -> Billing:
    user_id = UUID(user)
    return Billing(account=Account(id or uuid4(), user_id, "EUR", balance, MONDAY))


def an_entry(id: UUID = EVENT, key: str = ADA) -> JournalRow:
    return JournalRow(
        id=id,
        key=key,
        step=1,
        kind="command",
        type="Deposit",
        correlation_id=id,
        outcome="applied",
        fingerprint=b"body",
        answer_status=201,
        answer_body=b"done",
        answer_headers={"Location": "/"},
        received_at=MONDAY,
        decided_at=MONDAY,
    )


def a_fact(event: UUID = EVENT, key: str = ADA) -> OutboxRow:
    return OutboxRow(event, key, 0, b"{}", b"[]", MONDAY)


def a_parked(key: str) -> Parked:
    return Parked(uuid4(), key, None, *ORDERS, 3, b"k", None, b"[]", "handler", "a bug", None, MONDAY)


async def has_to_wait(stores: Stores, task: "asyncio.Future[Any]", others: int = 0) -> None:
    await eventually(stores.waiting, lambda number: number == others + 1)
    assert not task.done()


def begun(awaitable: Awaitable[Any]) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(awaitable)


# Keys.


async def test_a_key_starts_at_0_and_stands_where_it_was_moved(begin: Begin) -> None:
    one = await begin()
    assert await lock(one, ADA, EVE) == {ADA: 0, EVE: 0}
    one.advance_keys({ADA: 3})
    assert await lock(one, ADA) == {ADA: 3}
    await one.commit()
    assert await lock(await begin(), ADA, EVE) == {ADA: 3, EVE: 0}


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "undone"])
async def test_who_wants_a_locked_key_waits_and_then_sees_what_was_committed(
    stores: Stores, begin: Begin, commits: bool
) -> None:
    first = await begin()
    await lock(first, ADA)
    await first.commit()
    one, other = await begin(), await begin()
    await lock(one, ADA)
    wanted = other.lock_keys([ADA, EVE])
    waits = begun(other.send())
    await has_to_wait(stores, waits)  # for the lock: nothing is written yet
    one.advance_keys({ADA: 7})
    await one.send()
    await end(one, commits)
    await waits
    assert wanted() == {ADA: 7 if commits else 0, EVE: 0}


async def end(opened: Transaction, commits: bool) -> None:
    """Undone as whoever meets an error undoes it: the store's own refusal."""
    if commits:
        await opened.commit()
        return
    opened.add_to_journal([an_entry(UUID(int=1)), an_entry(UUID(int=1))])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await opened.send()


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "undone"])
async def test_of_two_who_make_a_key_the_second_waits_for_the_first(
    stores: Stores, begin: Begin, commits: bool
) -> None:
    one, other = await begin(), await begin()
    await lock(one, ADA)
    waits = begun(lock(other, ADA))
    await has_to_wait(stores, waits)
    one.advance_keys({ADA: 2})
    await end(one, commits)
    assert await waits == {ADA: 2 if commits else 0}


async def test_other_keys_and_partitions_are_nobodys_business(stores: Stores, begin: Begin) -> None:
    await stores.begin(USERS, ORDERS)
    one, other = await begin(), await begin()
    one.lock_positions([USERS])
    await lock(one, ADA)
    other.lock_positions([ORDERS])
    assert await lock(other, EVE) == {EVE: 0}


async def test_what_is_looked_at_after_a_lock_is_not_older_than_the_lock(
    stores: Stores, begin: Begin
) -> None:
    """In the same round trip."""
    one, other = await begin(), await begin()
    await lock(one, ADA)
    wanted, states = other.lock_keys([ADA]), other.load({ADA: [None]})
    known, blocked = other.seen([EVENT]), other.blocked([ADA, EVE])
    waits = begun(other.send())
    await has_to_wait(stores, waits)
    account = an_account(ADA, 5)
    one.save({ADA: Billing()}, {ADA: account})
    one.add_to_journal([an_entry()])
    one.park([a_parked(ADA)])
    one.advance_keys({ADA: 1})
    await one.commit()
    await waits
    assert (wanted(), states(), set(known()), blocked()) == ({ADA: 1}, {ADA: account}, {EVENT}, {ADA})


async def test_keys_are_locked_one_after_the_other_and_those_before_are_kept(
    stores: Stores, begin: Begin
) -> None:
    one, other, third = await begin(), await begin(), await begin()
    await lock(one, EVE)
    waits = begun(lock(other, EVE, ADA))
    await has_to_wait(stores, waits)
    waits_too = begun(lock(third, ADA))
    await has_to_wait(stores, waits_too, others=1)
    await one.commit()
    await waits
    assert not waits_too.done()
    await other.commit()
    await waits_too


# What is written.


async def test_nobody_else_sees_what_is_not_committed_and_a_failure_undoes_all_of_it(
    stores: Stores, begin: Begin
) -> None:
    await stores.begin(ORDERS)
    one, other = await begin(), await begin()
    expected = one.lock_positions([ORDERS])
    await lock(one, ADA)
    assert expected() == {ORDERS: Expected(0, -1)}
    one.save({ADA: Billing()}, {ADA: an_account(ADA, 5)})
    one.add_to_journal([an_entry()])
    one.add_to_outbox([a_fact()])
    one.park([a_parked(ADA)])
    one.advance_keys({ADA: 1})
    one.advance_positions({ORDERS: Reached(4, 3, 0, RECORD, 0)})
    await one.write_beside(lambda conn, _: stores.write_lease(conn, EVENT), NOTHING)
    assert (await state_of(one, ADA)).account
    assert await seen(one, EVENT) == {EVENT}
    assert await state_of(other, ADA) == Billing()
    assert await seen(other, EVENT) == set()
    blocked = other.blocked([ADA])
    await other.send()
    assert blocked() == set()
    await end(one, commits=False)
    for table, column in (("accounts", "id"), ("journal", "id"), ("outbox", "key"), ("parked", "key")):
        assert await stores.rows(table, column) == []
    assert await stores.rows("positions", "next_offset") == [(0,)]
    assert await stores.leases() == 0
    assert await lock(other, ADA) == {ADA: 0}


async def test_each_statement_sees_what_others_have_committed_by_then(begin: Begin) -> None:
    one, other = await begin(), await begin()
    assert await seen(other, EVENT) == set()
    one.add_to_journal([an_entry()])
    await one.commit()
    assert await seen(other, EVENT) == {EVENT}


async def test_what_is_committed_is_found_again_as_it_was(stores: Stores, begin: Begin) -> None:
    one = await begin()
    account = an_account(ADA, 5)
    payment = Payment(OTHER, UUID(ADA), 3, "waiting", 2, EVENT, EVENT, "trace")
    before = Billing()
    after = replace(account, payments={OTHER: payment})
    one.save({ADA: before, EVE: before}, {ADA: after, EVE: before})
    one.add_to_journal([an_entry()])
    await one.write_beside(lambda conn, _: stores.write_lease(conn, EVENT), NOTHING)
    await one.commit()
    other = await begin()
    states, known = other.load({ADA: [None], EVE: [None]}), other.seen([EVENT, OTHER])
    await other.send()
    assert states() == {ADA: after, EVE: before}
    found = known()[EVENT]
    assert (found.outcome, found.fingerprint) == ("applied", b"body")
    assert found.reply and (found.reply.status, dict(found.reply.headers)) == (201, {"Location": "/"})
    assert await stores.store.seen([EVENT, OTHER]) == known()
    assert await stores.leases() == 1
    paid = replace(after, payments={OTHER: replace(payment, outcome="confirmed")})
    other.save({ADA: after}, {ADA: paid})
    assert await state_of(other, ADA) == account  # a payment is loaded with its key while it waits


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "undone"])
async def test_an_input_is_written_down_once(stores: Stores, begin: Begin, commits: bool) -> None:
    one, other = await begin(), await begin()
    one.add_to_journal([an_entry(key=ADA)])
    await one.send()
    other.add_to_journal([an_entry(OTHER, EVE), an_entry(key=EVE)])
    waits = begun(other.commit())
    await has_to_wait(stores, waits)
    await end(one, commits)
    if commits:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await waits
        assert await stores.rows("journal", "id", "key") == [(EVENT, ADA)]
    else:
        await waits
        assert await stores.rows("journal", "key") == [(EVE,), (EVE,)]


async def test_a_fact_s_position_is_drawn_when_it_is_written_and_never_again(
    stores: Stores, begin: Begin
) -> None:
    one, other, third = await begin(), await begin(), await begin()
    one.add_to_outbox([a_fact(UUID(int=1))])
    await one.send()
    other.add_to_outbox([a_fact(UUID(int=2)), a_fact(UUID(int=3))])
    await other.commit()
    assert await stores.rows("outbox", "position", "event_id") == [(2, UUID(int=2)), (3, UUID(int=3))]
    third.add_to_outbox([a_fact(UUID(int=4))])
    await end(third, commits=False)
    await one.commit()
    last = await begin()
    last.add_to_outbox([a_fact(UUID(int=5))])
    await last.commit()
    assert [position for (position,) in await stores.rows("outbox", "position")] == [1, 2, 3, 5]


async def test_only_partitions_that_were_begun_are_locked_and_moved(stores: Stores, begin: Begin) -> None:
    await stores.begin(ORDERS)
    one = await begin()
    expected = one.lock_positions([USERS, ORDERS])
    await one.send()
    assert expected() == {ORDERS: Expected(0, -1)}
    one.advance_positions({ORDERS: Reached(4, 3, 7, RECORD, 7), USERS: Reached(1, 0, 0, RECORD, 0)})
    await one.commit()
    ends = "end_offset", "end_epoch"
    found = await stores.rows("positions", "next_offset", "last_offset", "leader_epoch", *ends)
    assert found == [(4, 3, 7, 4, 7)]
    marker = await begin()
    expected = marker.lock_positions([ORDERS])
    await marker.send()
    assert expected() == {ORDERS: Expected(4, 7)}
    marker.advance_positions({ORDERS: Reached(6, -1, -1, Record(None, None, []), 8)})
    await marker.commit()
    found = await stores.rows("positions", "next_offset", "last_offset", "leader_epoch", *ends, "last_digest")
    assert found == [(6, 3, 7, 6, 8, RECORD.digest)]
    last = await begin()
    expected = last.lock_positions([ORDERS])
    await last.send()
    assert expected() == {ORDERS: Expected(6, 8)}


async def test_a_partition_is_moved_by_one_at_a_time(stores: Stores, begin: Begin) -> None:
    await stores.begin(ORDERS)
    one, other = await begin(), await begin()
    one.lock_positions([ORDERS])
    await one.send()
    expected = other.lock_positions([ORDERS])
    waits = begun(other.send())
    await has_to_wait(stores, waits)
    one.advance_positions({ORDERS: Reached(4, 3, 0, RECORD, 0)})
    await one.commit()
    await waits
    assert expected() == {ORDERS: Expected(4, 0)}


# What is refused.


REFUSED: dict[str, tuple[type[psycopg.Error], Billing]] = {
    "overdrawn": (psycopg.errors.CheckViolation, an_account(EVE, -1)),
    "the id of another's account": (psycopg.errors.UniqueViolation, an_account(EVE, id=OTHER)),
    "the order of another": (
        psycopg.errors.UniqueViolation,
        Billing(payments={OTHER: Payment(OTHER, UUID(EVE), 3, "waiting", 1, EVENT, EVENT, "")}),
    ),
    "a NUL": (
        psycopg.errors.CharacterNotInRepertoire,
        Billing(payments={EVENT: Payment(EVENT, UUID(EVE), 3, "waiting", 1, EVENT, EVENT, "\0")}),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_is_refused_with_all_that_came_with_it(
    stores: Stores, begin: Begin, what: str
) -> None:
    payment = Payment(OTHER, UUID(ADA), 3, "waiting", 2, EVENT, EVENT, "trace")
    there = replace(an_account(ADA, id=OTHER), payments={OTHER: payment})
    one, other = await begin(), await begin()
    one.save({ADA: Billing()}, {ADA: there})
    await one.commit()
    error, refused = REFUSED[what]
    other.add_to_journal([an_entry(key=EVE)])
    other.save({EVE: Billing()}, {EVE: refused})
    with pytest.raises(error) as raised:
        await other.commit()
    assert failure_of(raised.value).name == "INPUT"
    assert await stores.rows("journal", "id") == []
    assert await stores.rows("accounts", "user_id") == [(UUID(ADA),)]
    other.add_to_journal([an_entry(key=EVE)])
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await other.send()


async def test_a_lock_is_not_waited_for_without_end(stores: Stores, begin: Begin) -> None:
    impatient: Any = stores.store
    if isinstance(stores, InMemory):
        stores.database._lock_timeout_seconds = 0.05
    one = await begin()
    await lock(one, ADA)
    async with impatient.transaction() as other:
        with pytest.raises(psycopg.errors.LockNotAvailable) as raised:
            await lock(other, ADA)
    assert failure_of(raised.value).name == "LOCKED"
    await one.commit()


async def test_who_holds_what_is_told_without_waiting(stores: Stores, begin: Begin) -> None:
    await stores.begin(USERS, ORDERS)
    one = await begin()
    await lock(one, ADA, EVE)
    await one.commit()
    assert (await stores.store.locked([ADA, EVE], [ORDERS, USERS])).rows == {}
    other = await begin()
    other.lock_positions([USERS])
    await lock(other, EVE, "new")
    found = await stores.store.locked([ADA, EVE, "new", "nobody"], [ORDERS, USERS])
    assert (set(found.rows), found.tables) == ({EVE, USERS}, {})
    assert (await stores.store.locked([ADA], [ORDERS])).rows == {}, "what nobody asked about is not told"
    assert set((await stores.store.locked([EVE], [])).rows) == {EVE}
    await stores.store.probe()


# Any order of statements, by both.

KEYS = st.sets(st.sampled_from([ADA, EVE]), min_size=1)
PARTITIONS = st.sets(st.sampled_from([USERS, ORDERS]), min_size=1)
IDS = st.integers(1, 3).map(lambda number: UUID(int=number))
NUMBERS = st.integers(1, 9)
STATEMENTS = st.one_of(
    st.tuples(st.just("lock positions"), PARTITIONS),
    st.tuples(st.just("lock keys"), KEYS),
    st.tuples(st.just("look"), IDS),
    st.tuples(st.just("journal"), IDS),
    st.tuples(st.just("account"), st.tuples(st.sampled_from([ADA, EVE]), st.integers(-1, 5))),
    st.tuples(st.just("outbox"), IDS),
    st.tuples(st.just("advance keys"), st.dictionaries(st.sampled_from([ADA, EVE]), NUMBERS, min_size=1)),
    st.tuples(st.just("advance positions"), st.dictionaries(st.sampled_from([USERS, ORDERS]), NUMBERS)),
    st.tuples(st.just("commit"), st.none()),
)
ORDER_OF_LOCKS = ["lock positions", "lock keys", "account", "journal"]
"""As the kernel takes them, all of a kind at once, so that nobody waits in a circle: who gives in there, is
anybody's choice. It moves what it has locked.
"""
LOCKED_BY = {"advance positions": "lock positions", "advance keys": "lock keys"}
PROGRAMMES = st.lists(st.tuples(st.integers(0, 2), STATEMENTS), min_size=4, max_size=16)


class Interleaved:
    """Three transactions that go on statement by statement, and what each statement came to."""

    def __init__(self, stores: Stores, opened: Sequence[Transaction]) -> None:
        self._stores = stores
        self._opened = opened
        self._reached = [-1] * len(opened)
        self._locked: list[set[object]] = [set() for _ in opened]
        self._over = [False] * len(opened)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.told: list[object] = []

    async def take(self, number: int, name: str, value: Any) -> None:
        """Who waits, or is over, does nothing; nor does what would be locked out of the kernel's order."""
        if number in self._waiting or self._over[number] or not self._locks(number, name, value):
            return
        if name == "commit":
            self._over[number] = True
        self._waiting[number] = begun(_carried_out(self._opened[number], name, value))
        await self.settle()

    def _locks(self, number: int, name: str, value: Any) -> bool:
        """Whether it may, in the kernel's order; then it has."""
        lock = LOCKED_BY.get(name, name)
        if lock not in ORDER_OF_LOCKS:
            return True
        rows = [value[0]] if name == "account" else [value] if name == "journal" else value
        wanted = {(lock, row) for row in rows}
        reached, locked = ORDER_OF_LOCKS.index(lock), self._locked[number]
        if wanted - locked and (name in LOCKED_BY or reached <= self._reached[number]):
            return False
        self._reached[number] = max(reached, self._reached[number])
        locked |= wanted
        return True

    async def settle(self) -> None:
        """Returns when everybody is done or waits for a lock."""
        met: dict[int, object] = {}
        while True:
            done = [number for number, task in self._waiting.items() if task.done()]
            for number in done:
                met[number] = outcome = await self._waiting.pop(number)
                self._over[number] = self._over[number] or isinstance(outcome, str)
            if not done and len(self._waiting) == await self._stores.waiting():
                break
            await asyncio.sleep(0)
        self.told.append((sorted(met.items()), sorted(self._waiting)))

    async def end(self) -> None:
        """Whoever can commits, until all have."""
        while not all(self._over):
            free = [number for number in range(3) if not self._over[number] and number not in self._waiting]
            await self.take(free[0], "commit", None)


async def _carried_out(opened: Transaction, name: str, value: Any) -> object:
    """What it found, or in a word which refusal."""
    found: Any = dict
    match name:
        case "lock positions":
            found = opened.lock_positions(sorted(value))
        case "lock keys":
            found = opened.lock_keys(sorted(value))
        case "look":
            states, known = opened.load({ADA: [None], EVE: [None]}), opened.seen([value])
            found = lambda: {"states": states(), "known": sorted(known())}  # noqa: E731
        case "journal":
            opened.add_to_journal([an_entry(value)])
        case "account":
            key, balance = value
            opened.save({key: Billing()}, {key: an_account(key, balance, UUID(key))})
        case "outbox":
            opened.add_to_outbox([a_fact(value)])
        case "advance keys":
            opened.advance_keys(dict(sorted(value.items())))
        case "advance positions":
            reached = {place: Reached(offset, offset - 1, 0, RECORD, 0) for place, offset in value.items()}
            opened.advance_positions(dict(sorted(reached.items())))
    try:
        await (opened.commit() if name == "commit" else opened.send())
    except psycopg.Error as error:
        return type(error).__name__
    return found()


async def _played(stores: Stores, programme: Sequence[tuple[int, tuple[str, Any]]]) -> list[Any]:
    await stores.begin(USERS, ORDERS)
    async with stores.store.transaction() as first:  # of several who wait for a new one any is next
        await lock(first, ADA, EVE)
        await first.commit()
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(stores.store.transaction()) for _ in range(3)]
        for one in opened:
            await stores.patient(one)
        interleaved = Interleaved(stores, opened)
        for number, (name, value) in programme:
            await interleaved.take(number, name, value)
        await interleaved.end()
    return [
        *interleaved.told,
        await stores.rows("keys", "key", "sequence"),
        await stores.rows("positions", "topic", "next_offset", "last_offset"),
        await stores.rows("journal", "id"),
        await stores.rows("outbox", "position", "event_id"),
        await stores.rows("accounts", "user_id", "balance"),
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@forall(programme=PROGRAMMES)
def test_whatever_is_interleaved_comes_to_the_same_in_memory_and_in_postgres(
    postgres: Postgres, templates: dict[str, str], programme: list[tuple[int, tuple[str, Any]]]
) -> None:
    async def in_postgres(database: PostgresDatabase) -> list[Any]:
        found = OnPostgres(database)
        try:
            return await _played(found, programme)
        finally:
            await found.engine.dispose()

    told = asyncio.run(_played(InMemory(), programme))
    for _ in range(10):  # of two who wait for a row that a third has changed, Postgres may let either go on
        with a_database("billing", postgres, templates) as database:
            expected = asyncio.run(in_postgres(database))
        if told == expected:
            break
    assert told == expected
