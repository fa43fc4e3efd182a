"""What the kernel does with what it is given, on a database in memory: `tests/component/test_kernel.py` has
the promise on the real one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from billing_service.commands import Deposit, OpenAccount
from billing_service.service import decider as billing_decider
from billing_service.store import STORE as BILLING
from choreo.chassis import clock
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe.health import Job
from choreo.chassis.observe.meter import Meter
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import held_back, kernel
from choreo.chassis.transaction.inputs import Decided, Failed, Heard, Overloaded, Reply
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Expected, Position
from choreo.chassis.transaction.step import Decider
from choreo.message.codec import encode
from choreo.message.decider import Command
from choreo.message.envelope import Cause, Event
from choreo.message.fact import Fact
from choreo.simulation.database import Database, Session
from choreo.simulation.store import MemoryStore
from events.user import UserRegistered
from tests.component.alone import an_event
from user_service.commands import Register
from user_service.service import decider as user_decider
from user_service.store import STORE as USERS

ADA, EVE = uuid4(), uuid4()
PARTITIONS = 3
REGISTERED = "user-events", 0


class Service:
    """A kernel that runs once it is begun, and the statements that its database was given."""

    def __init__(self, decider: Decider[Any], states: Any, stack: AsyncExitStack) -> None:
        self.statements: list[str] = []
        self.befalls: Callable[[str], None] = lambda statement: None
        """Called with each statement. Raises what its client gets instead."""
        self.database = Database(states, meet=self._meet, lock_timeout_seconds=0.01)
        self.registry = CollectorRegistry()
        self.job = Job()
        self.kernel: Kernel[Any] = Kernel(
            decider,
            MemoryStore(self.database),
            partition_of=lambda key: partition_of(key, PARTITIONS),
            clock=clock.now,
            meter=Meter(self.registry),
            job=self.job,
        )
        self._stack = stack

    def _meet(self, statement: str) -> float:
        self.statements.append(statement)
        self.befalls(statement)
        return 0.0

    def begin(self) -> "asyncio.Task[None]":
        running = asyncio.ensure_future(self.kernel.run())
        self._stack.push_async_callback(asyncio.wait, [running])
        self._stack.callback(running.cancel)
        return running

    def asks(self, command: Command) -> "asyncio.Task[Reply | None]":
        return asyncio.ensure_future(self.kernel.ask(command, _answered))

    async def hears(self, offset: int, event: Event[Fact], **more: Any) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.kernel.hear(Heard(*REGISTERED, offset, encode(event), event, None, clock.now(), done, **more))
        await done

    async def has_locked(self, key: str) -> Session:
        """Somebody else has, until that session ends."""
        session = Session(self.database)
        row = next(row for row in self.database.rows("keys") if row.key == key)
        await session.lock([("keys", row.key)])
        return session

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def _answered(decided: Decided) -> Reply:
    return Reply(409 if decided.refusal else 201, b"")


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    for module, name in ((kernel, "_FIRST_PAUSE"), (held_back, "FIRST_PAUSE_SECONDS")):
        monkeypatch.setattr(module, name, 0.0)
    with capture_logs():  # to draw a traceback takes longer than all else here
        async with AsyncExitStack() as stack:
            yield stack


@pytest.fixture
def billing(stack: AsyncExitStack) -> Service:
    return Service(billing_decider(Settings()), BILLING, stack)


@pytest.fixture
def users(stack: AsyncExitStack) -> Service:
    return Service(user_decider(), USERS, stack)


def deposit(user: UUID) -> Deposit:
    return Deposit(cause=Cause.root(uuid4()), user_id=user, amount=1)


def register(login: str = "ada") -> Register:
    user = uuid4()
    return Register(cause=Cause.root(user), user_id=user, login=login, email=f"{user}@example.com")


def registered(user: UUID) -> Event[Fact]:
    return an_event(UserRegistered(user_id=user, login=f"login-{user}", email=f"{user}@example.com"))


async def status(asked: "asyncio.Task[Reply | None]") -> int | None:
    reply = await asked
    return reply.status if reply else None


async def with_account(billing: Service, user: UUID) -> None:
    command = OpenAccount(cause=Cause.root(uuid4()), user_id=user)
    await billing.kernel.ask(command)


# Who is let in.


async def test_so_many_of_a_key_are_let_in_as_wait_no_more(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "KEY_LIMIT", 2)
    one, other = billing.asks(deposit(ADA)), billing.asks(deposit(ADA))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await billing.asks(deposit(ADA))
    one.cancel()
    await asyncio.wait([one])
    third = billing.asks(deposit(ADA))
    await asyncio.sleep(0)
    assert not third.done(), "one waits no more: there is room"
    with pytest.raises(Overloaded):
        await billing.asks(deposit(ADA))
    billing.begin()
    assert [await status(other), await status(third)] == [409, 409], "there is no account"
    assert await status(billing.asks(deposit(ADA))) == 409
    assert not billing.kernel._asking, "nothing is kept of a key for which nobody waits"


async def test_a_reader_waits_while_too_much_is_queued(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "QUEUE_SOFT_LIMIT", 2)
    asked = [billing.asks(deposit(user)) for user in (ADA, EVE)]
    await asyncio.sleep(0)
    room = asyncio.ensure_future(billing.kernel.room())
    await asyncio.sleep(0)
    assert not room.done()
    billing.begin()
    await asyncio.gather(room, *asked)


# What belongs together, and what does not.


async def test_nobody_is_told_before_it_is_committed(billing: Service) -> None:
    billing.begin()
    await with_account(billing, ADA)
    told: list[str] = []
    billing.kernel.on_facts.append(lambda: told.append("the relay"))
    billing.kernel.on_commit.append(lambda keys: told.append("who waits"))
    asked = billing.asks(deposit(ADA))
    asked.add_done_callback(lambda _: told.append("who asked"))
    before: list[list[str]] = []
    billing.befalls = lambda statement: before.append([*told]) if statement == "commit" else None
    assert await status(asked) == 201
    await asyncio.sleep(0)
    assert before == [[]]
    assert sorted(told) == ["the relay", "who asked", "who waits"]


async def test_who_waits_for_a_key_is_woken_with_the_keys_that_moved(billing: Service) -> None:
    billing.begin()
    woken: list[set[str]] = []
    billing.kernel.on_commit.append(lambda keys: woken.append(set(keys)))
    await with_account(billing, ADA)
    await billing.asks(deposit(EVE))  # refused: nothing moves
    await billing.asks(deposit(ADA))
    assert woken == [{str(ADA)}, {str(ADA)}]


async def test_two_who_want_one_name_are_decided_one_after_the_other(users: Service) -> None:
    asked = [users.asks(register("ada")), users.asks(register("Ada")), users.asks(register("eve"))]
    await asyncio.sleep(0)
    users.begin()
    assert [await status(one) for one in asked] == [201, 409, 201]
    assert users.statements.count("commit") == 2, "and the database had nothing to refuse"
    assert users.statements.count("keys.lock") == 2


async def test_a_fact_goes_to_the_partition_of_its_key(billing: Service) -> None:
    """Whether it follows from a command or from what was heard."""
    billing.database.begin([Position(*REGISTERED, 0, "topic", "cluster")])
    billing.begin()
    for number, user in enumerate(uuid4() for _ in range(8)):
        await with_account(billing, user)
        await billing.hears(number, registered(uuid4()))
    rows = billing.database.rows("outbox")
    assert len(rows) == 16
    assert all(row.partition == partition_of(row.key, PARTITIONS) for row in rows)
    assert all(row.record.key == row.key.encode() for row in rows)


@pytest.mark.parametrize(
    ("last", "end", "epoch"),
    [
        ((4, 1), (5, 1), 1),
        ((2, 1), (5, 2), 2),
        ((4, 1), (3, 0), 1),
        ((2, 1), (3, 1), -1),
        ((7, 1), (8, 1), -1),
        ((5, 1), (6, 1), -1),
        ((-1, -1), (-1, -1), -1),
    ],
    ids=[
        "a record",
        "a marker",
        "by a version of before",
        "a marker, by such a one",
        "set back",
        "set back by one",
        "unknown",
    ],
)
def test_who_appended_what_lies_before_a_position(
    last: tuple[int, int], end: tuple[int, int], epoch: int
) -> None:
    """Each names its offset: who moves the position without it makes it unknown."""
    position = Position(
        *REGISTERED,
        5,
        "topic",
        "cluster",
        last_offset=last[0],
        leader_epoch=last[1],
        end_offset=end[0],
        end_epoch=end[1],
    )
    assert position.expected == Expected(5, epoch)


async def test_a_position_that_a_person_has_set_back_is_read_on_from(billing: Service) -> None:
    """Even where another record stood there: who sets it back knows that the log was cut."""
    billing.database.begin(
        [
            Position(
                *REGISTERED,
                5,
                "topic",
                "cluster",
                last_offset=5,
                last_digest=b"another",
                leader_epoch=3,
                end_offset=6,
                end_epoch=3,
            )
        ]
    )
    billing.begin()
    event = registered(ADA)
    await billing.hears(5, event, leader_epoch=2)
    (position,) = billing.database.rows("positions")
    assert (position.next_offset, position.last_digest) == (6, encode(event).digest)


# What goes wrong.


@pytest.mark.parametrize("is_away", [False, True], ids=["in a transaction", "while the database is away"])
async def test_what_was_taken_when_it_was_cancelled_is_found_by_whoever_begins_anew(
    billing: Service, is_away: bool
) -> None:
    first = billing.begin()
    await with_account(billing, ADA)
    reached = asyncio.Event()

    def befalls(statement: str) -> None:
        if statement == ("probe" if is_away else "keys.lock"):
            reached.set()
        if is_away:
            raise psycopg.OperationalError("the database is away")

    billing.befalls = befalls
    asked = billing.asks(deposit(ADA))
    await reached.wait()
    first.cancel()
    await asyncio.wait([first])
    billing.befalls = lambda statement: None
    billing.begin()
    assert await status(asked) == 201


async def test_a_record_waits_for_none_that_comes_after_it(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although that one, of the same partition, is held for what somebody else has locked."""
    monkeypatch.setattr(held_back, "FIRST_PAUSE_SECONDS", 0.1)
    billing.database.begin([Position(*REGISTERED, 0, "topic", "cluster")])
    billing.begin()
    await with_account(billing, EVE)
    locked, found = await billing.has_locked(str(EVE)), asyncio.Event()
    billing.befalls = lambda statement: found.set() if statement == "locks" else None
    held = billing.asks(deposit(EVE))
    await found.wait()
    before = asyncio.ensure_future(billing.hears(0, registered(ADA)))
    after = asyncio.ensure_future(billing.hears(1, registered(EVE)))
    async with asyncio.timeout(10):
        await before
    assert not after.done()
    locked.end(commit=False)
    await after
    assert await status(held) == 201


async def test_a_command_that_breaks_every_session_fails_and_is_not_tried_for_ever(billing: Service) -> None:
    attempts = 0

    def befalls(statement: str) -> None:
        nonlocal attempts
        attempts += statement == "write.journal"
        if statement == "write.journal" and attempts < 100:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    billing.begin()
    await with_account(billing, ADA)
    billing.befalls = befalls
    with pytest.raises(Failed):
        await billing.asks(deposit(ADA))
    assert attempts > 1, "a session may break without anybody's fault"


async def test_why_the_database_cannot_be_used_is_told_as_soon_as_it_is_known(billing: Service) -> None:
    billing.begin()
    told: list[str | None] = []
    refused = ["keys.lock", "probe"]

    def befalls(statement: str) -> None:
        if refused and statement == refused[0]:
            del refused[0]
            if statement == "probe":
                asyncio.get_running_loop().call_soon(lambda: told.append(billing.kernel.trouble))
            raise psycopg.OperationalError(f"no {statement} now")

    billing.befalls = befalls
    assert await status(billing.asks(deposit(ADA))) == 409
    assert told == ["the database cannot be used: no probe now"]
    assert billing.kernel.trouble is None


async def test_a_handler_that_raises_is_counted(stack: AsyncExitStack) -> None:
    def bug(*_: object) -> Any:
        raise ZeroDivisionError("a bug")

    billing = Service(replace(billing_decider(Settings()), decide=bug), BILLING, stack)
    billing.begin()
    with pytest.raises(Failed):
        await billing.asks(deposit(ADA))
    assert billing.counted("choreo_commands_total", type="Deposit", outcome="failed") == 1
    assert billing.database.rows("journal") == []


@pytest.mark.parametrize("which", range(3))
async def test_a_command_of_several_keys_waits_for_each_and_then_nothing_is_held_up(
    users: Service, which: int
) -> None:
    users.begin()
    first = register("ada")
    assert await status(users.asks(first)) == 201
    locked = await users.has_locked(sorted(first.keys)[which])
    looked = asyncio.Event()
    users.befalls = lambda _: looked.set() if users.statements.count("locks") > 1 else None
    asked = users.asks(replace(first, cause=Cause.root(uuid4())))
    await looked.wait()
    assert users.job.state.cause and users.job.state.serves and not asked.done()
    locked.end(commit=False)
    assert await status(asked) == 409
    assert await status(users.asks(register("eve"))) == 201
    assert users.job.state.cause is None
