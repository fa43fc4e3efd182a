"""Disorder: topics in any order, records again, batches cut anywhere, the process gone in the middle.

Each example is somebody new in a database that is kept. It is drawn what happened, which is the order within
each partition, and how it reaches the service. What the service makes of it is compared with its pure
functions alone.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as forall
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from billing_service.commands import Deposit, Withdraw
from billing_service.service import service as billing
from choreo.chassis.database.connection import make_engine
from choreo.chassis.database.round_trip import Later, RoundTrip
from choreo.chassis.observe.meter import Meter
from choreo.chassis.service import Service
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.inputs import Decided, Reply
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import TopicPartition
from choreo.chassis.transaction.state_store import StateStore, TableMapping
from choreo.chassis.transaction.step import hear, obey
from choreo.chassis.transaction.store import PostgresStore
from choreo.embedded.postgres import Postgres
from choreo.message.codec import Record, decode
from choreo.message.decider import Command
from choreo.message.envelope import Cause, Event
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected
from events.order import OrderCancelled, OrderCreated
from events.user import UserRegistered
from notification_service.service import service as notification
from order_service.commands import PlaceOrder
from order_service.service import service as order
from tests.component.alone import NEVER, Reader, an_event
from tests.databases import a_database
from tests.shop import PATIENCE

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
"""It is always the same moment, so that it can be said what a row has to be."""
PARTITIONS = 2

calm = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# What happened.


@dataclass(frozen=True)
class Happened:
    """As the other services decided it, in one straight order; and what was asked of this one."""

    people: list[UUID]
    facts: list[Event[Fact]]
    asked_first: list[Command] = field(default_factory=list)
    """Before anything was heard: what is heard follows from it."""
    asked: list[Command] = field(default_factory=list)
    """Meanwhile."""

    def place(self, fact: Event[Fact]) -> TopicPartition:
        return fact.source, [str(person) for person in self.people].index(fact.key) % PARTITIONS


Plan = list[tuple[int, int]]
"""Whose turn, and a number that each service's history has a meaning for."""

plans: st.SearchStrategy[Plan] = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=8)


def billings(plan: Plan) -> Happened:
    """Everybody registers, and orders are placed."""
    people = _people(plan)
    orders = [_ordered(people[who], amount) for who, amount in plan]
    return Happened(people, _events([*map(_registered, people), *orders]))


def billings_with_requests(plan: Plan) -> Happened:
    """Odd turns are deposits, but for every third, which is a withdrawal; even ones are orders.

    Every second order is cancelled, after all were placed.
    """
    people = _people(plan)
    orders = [_ordered(people[who], amount) for who, amount in plan[::2]]
    cancels = [
        OrderCancelled(order_id=order.order_id, user_id=order.user_id, reason="by_user")
        for order in orders[::2]
    ]
    wishes: list[Command] = [
        kind(cause=Cause.root(uuid4()), user_id=people[who], amount=amount)
        for (who, amount), kind in zip(plan[1::2], [Deposit, Deposit, Withdraw] * len(plan), strict=False)
    ]
    return Happened(people, _events([*map(_registered, people), *orders, *cancels]), asked=wishes)


def notifications(plan: Plan) -> Happened:
    """Everybody registers, and payments are decided. What was paid is refunded if its amount is even."""
    people = _people(plan)
    payments = [_decided(people[who], uuid4(), number) for who, number in plan]
    refunds = [
        PaymentRefunded(**paid.model_dump())
        for paid in payments
        if isinstance(paid, PaymentConfirmed) and paid.amount % 2 == 0
    ]
    return Happened(people, _events([*map(_registered, people), *payments, *refunds]))


def orders(plan: Plan) -> Happened:
    """Orders are placed here, and then their payments are decided."""
    people = _people(plan)
    placed = [
        PlaceOrder(
            cause=Cause.root(uuid4()),
            user_id=people[who],
            order_id=uuid4(),
            price=number,
            description=None,
        )
        for who, number in plan
    ]
    payments = [_decided(wish.user_id, wish.order_id, wish.price) for wish in placed]
    return Happened(people, _events(payments), asked_first=list(placed))


def _people(plan: Plan) -> list[UUID]:
    return [uuid4() for _ in range(max((who for who, _ in plan), default=0) + 1)]


def _events(facts: Sequence[Fact]) -> list[Event[Fact]]:
    return [an_event(fact, sequence=number) for number, fact in enumerate(facts, start=1)]


def _registered(user: UUID) -> UserRegistered:
    return UserRegistered(user_id=user, login=f"ada-{user}", email=f"{user}@example.com")


def _ordered(user: UUID, price: int) -> OrderCreated:
    return OrderCreated(order_id=uuid4(), user_id=user, price=price, description=None, decide_by=NEVER)


def _decided(user: UUID, order_id: UUID, number: int) -> PaymentConfirmed | PaymentRejected:
    if number % 3 == 0:
        return PaymentConfirmed(payment_id=uuid4(), order_id=order_id, user_id=user, amount=number, balance=0)
    reason: Literal["insufficient_funds", "order_cancelled"] = (
        "insufficient_funds" if number % 3 == 1 else "order_cancelled"
    )
    return PaymentRejected(order_id=order_id, user_id=user, amount=number, reason=reason, balance=0)


# How it comes.


@dataclass(frozen=True)
class Disorder:
    repeats: list[tuple[int, int]]
    """Of which record, and how many places behind it."""
    moves: list[int | str]
    """Reads from one of the partitions, or is something that happens to the process."""


disorders = st.builds(
    Disorder,
    repeats=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=4),
    moves=st.lists(
        st.one_of(
            st.integers(0, 7),
            st.integers(0, 7),
            st.sampled_from(
                ["commit", "stop", "die locked", "die writing", "read again", "ask", "ask again"]
            ),
        ),
        max_size=40,
    ),
)


def logs(happened: Happened, repeats: list[tuple[int, int]]) -> dict[TopicPartition, list[Event[Fact]]]:
    """What each partition holds: its facts in their order, some of them once more further on."""
    found: dict[TopicPartition, list[Event[Fact]]] = {}
    for fact in happened.facts:
        found.setdefault(happened.place(fact), []).append(fact)
    for number, behind in repeats:
        for log in found.values():
            if number < len(log):
                log.insert(number + 1 + behind, log[number])
    return found


class Process:
    """The service, killed and started again as drawn; its database stays."""

    def __init__(self, kept: "Kept", happened: Happened, disorder: Disorder) -> None:
        self._kept = kept
        name = uuid4().hex  # topics of its own, for the positions
        found = logs(happened, disorder.repeats)
        self._logs = {(f"{topic}-{name}", partition): log for (topic, partition), log in found.items()}
        self._first = happened.asked_first
        self._wishes = happened.asked
        self._asked = 0
        self._under_way: list[asyncio.Future[Any]] = []
        self._death: str | None = None

    async def live(self, moves: Sequence[int | str]) -> None:
        """Through all the moves, and then through whatever is left."""
        await self._begin()
        await asyncio.gather(*[self._kernel.ask(wish, answered) for wish in self._first])
        for move in moves:
            match move:
                case int():
                    self._read(move)
                case "commit":
                    await self._commit()
                case "stop":
                    await self._stop()
                    await self._begin()
                case "die locked" | "die writing" as death:
                    await self._die(death)
                    await self._begin()
                case "read again":
                    self._rewind()
                case "ask":
                    self._ask(self._asked)
                case "ask again":
                    self._ask(self._asked - 1)
        while any(self._left(reader) for reader in self._readers):
            for number in range(len(self._readers)):
                self._read(number)
        while self._asked < len(self._wishes):
            self._ask(self._asked)
        await self._commit()
        for number in range(len(self._wishes)):
            self._ask(number)  # whoever got no answer asks again
        await self._commit()
        await self._stop()
        assert not any(self._left(reader) for reader in await self._readers_from_the_positions())

    async def _begin(self) -> None:
        """As the consumer begins: from the positions."""
        self._kernel = Kernel(
            self._kept.service.decider,
            PostgresStore(self._kept.engine, self),  # its state, on the service's mappings
            partition_of=lambda key: 0,
            clock=self._now,
            meter=self._kept.meter,
        )
        self._running = asyncio.ensure_future(self._kernel.run())
        self._readers = await self._readers_from_the_positions()

    async def _readers_from_the_positions(self) -> list[Reader]:
        readers = [
            await Reader(self._kernel, topic, partition).begin(self._kept.engine)
            for topic, partition in self._logs
        ]
        for reader in readers:
            reader.next_offset = self._kept.next_offset(reader)
        return readers

    async def _stop(self) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        for done in self._under_way:
            done.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()

    async def _die(self, death: str) -> None:
        """In the middle of a transaction, if there is one."""
        self._death = death
        ends: set[asyncio.Future[Any]] = {
            self._running,
            asyncio.gather(*self._under_way, return_exceptions=True),
        }
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self._death = None
        await self._stop()

    def _now(self) -> datetime:
        """Asked for when the rows are locked and nothing is written yet."""
        if self._death == "die locked":
            self._running.cancel()
        return MONDAY

    def load(self, trip: RoundTrip, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, Any]]:
        return self._kept.service.store.load(trip, wanted)

    def save(self, trip: RoundTrip, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Comes first of what is written. It ends while that is on its way, and may be committed or not."""
        if self._death == "die writing":
            self._running.cancel()
        self._kept.service.store.save(trip, before, after)

    async def _commit(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._under_way)
        self._under_way.clear()

    def _read(self, number: int) -> None:
        if self._readers:
            reader = self._readers[number % len(self._readers)]
            if left := self._left(reader):
                self._under_way.append(reader.put(left[0]))

    def _left(self, reader: Reader) -> list[Event[Fact]]:
        return self._logs[reader.topic, reader.partition][reader.next_offset :]

    def _rewind(self) -> None:
        """As after a rebalance: what was read already comes again, at the offsets it had."""
        for reader in self._readers:
            reader.next_offset = max(0, reader.next_offset - 2)

    def _ask(self, number: int) -> None:
        if 0 <= number < len(self._wishes):
            self._under_way.append(asyncio.ensure_future(self._kernel.ask(self._wishes[number], answered)))
            self._asked = max(self._asked, number + 1)


def answered(decided: Decided) -> Reply:
    return Reply(409 if decided.refusal else 201, b"")


# What becomes of it.


@dataclass(frozen=True)
class Outcome:
    """The rows of some people, and what was decided about each of them, in order."""

    rows: dict[str, list[Any]]
    decided: dict[str, list[Event[Fact]]]

    @property
    def timeless(self) -> "Outcome":
        """Without numbers that say what came before what."""
        rows = {table: [_without_step(row) for row in found] for table, found in self.rows.items()}
        decided = {
            key: sorted((replace(event, sequence=0) for event in events), key=repr)
            for key, events in self.decided.items()
        }
        return Outcome(_sorted(rows), decided)


def fold(service: Service[Any], inputs: Sequence[Event[Fact] | Command]) -> Outcome:
    """What the pure functions alone make of these inputs in this order."""
    states: dict[str, Any] = {}
    numbers: Counter[str] = Counter()
    decided: dict[str, list[Event[Fact]]] = {}
    for input in inputs:
        state = states.get(input.key, _shelves(service).empty())
        if isinstance(input, Event):
            step = hear(service.decider, state, input, MONDAY, numbers[input.key])
        else:
            step = obey(service.decider, state, input, MONDAY, numbers[input.key])
        states[input.key], numbers[input.key] = step.state, step.sequence
        for event in step.events:
            decided.setdefault(input.key, []).append(replace(event, applied_sequence=0))
    rows: dict[str, list[Any]] = {mapping.table.name: [] for mapping in _own(service)}
    for state in states.values():
        for mapping in _own(service):
            held = getattr(state, mapping.field)
            rows[mapping.table.name] += ([held] if held else []) if mapping.single else held.values()
    return Outcome(_sorted(rows), decided)


def _shelves(service: Service[Any]) -> StateStore[Any]:
    assert isinstance(service.own_store, StateStore)
    return service.own_store


def _own(service: Service[Any]) -> Sequence[TableMapping]:
    """Without what every service keeps."""
    return service.own_store.mappings


def _without_step(row: Any) -> Any:
    return replace(row, step=0) if "step" in {field.name for field in fields(row)} else row


def _sorted(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {table: sorted(found, key=repr) for table, found in rows.items()}


@dataclass(frozen=True)
class Kept:
    """What outlives every example: a service's database."""

    service: Service[Any]
    engine: AsyncEngine
    meter: Meter
    runner: asyncio.Runner
    conn: psycopg.Connection[tuple[Any, ...]]

    def take(self, happened: Happened, disorder: Disorder) -> Outcome:
        """What the service makes of it; and whatever order that was, it was rightly made."""
        process = Process(self, happened, disorder)
        self.runner.run(process.live(disorder.moves))
        people = [str(person) for person in happened.people]
        inputs = {fact.id: fact for fact in happened.facts} | {
            wish.cause.id: wish for wish in (*happened.asked_first, *happened.asked)
        }
        handled = [inputs[id] for (id,) in self._rows(_JOURNAL, people)]
        outcome = self._outcome(people)
        assert outcome == fold(self.service, handled)
        heard = [event for event in handled if isinstance(event, Event)]
        assert Counter(heard) == Counter(happened.facts), "each once"
        for place in {happened.place(fact) for fact in happened.facts}:
            for key in people:
                in_order = [
                    fact for fact in happened.facts if (happened.place(fact), fact.key) == (place, key)
                ]
                assert [
                    fact for fact in heard if (happened.place(fact), fact.key) == (place, key)
                ] == in_order
        return outcome

    def next_offset(self, reader: Reader) -> int:
        """Once nobody moves it any more."""
        ((next_offset,),) = self._rows(
            "SELECT next_offset FROM positions WHERE topic = %s AND partition = %s FOR UPDATE",
            reader.topic,
            reader.partition,
        )
        return int(next_offset)

    def _outcome(self, people: list[str]) -> Outcome:
        rows = {}
        for mapping in _own(self.service):
            names = ", ".join(field.name for field in fields(mapping.row))
            query = f"SELECT {names} FROM {mapping.table.name} WHERE {mapping.key} = ANY(%s::uuid[])"
            rows[mapping.table.name] = [mapping.row(*values) for values in self._rows(query, people)]
        decided: dict[str, list[Event[Fact]]] = {}
        for value, headers, key in self._rows(_OUTBOX, people):
            pairs = [(name, text.encode()) for name, text in orjson.loads(headers)]
            decided.setdefault(key, []).append(decode(Record(key.encode(), value, pairs)))
        return Outcome(_sorted(rows), decided)

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.conn.execute(query.encode(), values).fetchall()


_JOURNAL = "SELECT id FROM journal WHERE key = ANY(%s) ORDER BY position"
_OUTBOX = "SELECT value, headers, key FROM outbox WHERE key = ANY(%s) ORDER BY position"


@contextmanager
def kept(service: Service[Any], postgres: Postgres, templates: dict[str, str]) -> Iterator[Kept]:
    with (
        a_database(service.name, postgres, templates) as database,
        asyncio.Runner() as runner,
        psycopg.connect(database.owner_url, autocommit=True) as conn,
    ):
        engine = make_engine(database.runtime_url)
        yield Kept(service, engine, Meter(CollectorRegistry()), runner, conn)
        runner.run(engine.dispose())


@pytest.fixture(scope="module")
def billing_kept(postgres: Postgres, templates: dict[str, str]) -> Iterator[Kept]:
    with kept(billing(Settings()), postgres, templates) as found:
        yield found


@pytest.fixture(scope="module")
def notification_kept(postgres: Postgres, templates: dict[str, str]) -> Iterator[Kept]:
    with kept(notification(Settings()), postgres, templates) as found:
        yield found


@pytest.fixture(scope="module")
def order_kept(postgres: Postgres, templates: dict[str, str]) -> Iterator[Kept]:
    with kept(order(Settings()), postgres, templates) as found:
        yield found


# The laws.


@calm
@forall(plan=plans, disorder=disorders)
def test_billing_ends_as_if_all_had_come_in_order(billing_kept: Kept, plan: Plan, disorder: Disorder) -> None:
    happened = billings(plan)
    outcome = billing_kept.take(happened, disorder)
    assert outcome.timeless == fold(billing_kept.service, happened.facts).timeless
    assert {payment.outcome for payment in outcome.rows["payments"]} <= {"rejected"}, "nothing waits"
    assert_nothing_is_decided_without_an_account(outcome)


@calm
@forall(plan=plans, disorder=disorders)
def test_notifications_end_as_if_all_had_come_in_order(
    notification_kept: Kept, plan: Plan, disorder: Disorder
) -> None:
    happened = notifications(plan)
    outcome = notification_kept.take(happened, disorder)
    assert outcome.timeless == fold(notification_kept.service, happened.facts).timeless
    to_tell = [
        fact.data.order_id
        for fact in happened.facts
        if isinstance(fact.data, PaymentConfirmed | PaymentRejected | PaymentRefunded)
    ]
    told = [row.order_id for row in outcome.rows["notifications"]]
    assert Counter(told) == Counter(to_tell), "exactly one for each outcome and each refund"


@calm
@forall(plan=plans, disorder=disorders)
def test_orders_end_as_if_all_had_come_in_order(order_kept: Kept, plan: Plan, disorder: Disorder) -> None:
    happened = orders(plan)
    outcome = order_kept.take(happened, disorder)
    straight = fold(order_kept.service, [*happened.asked_first, *happened.facts])
    assert outcome.timeless == straight.timeless
    assert {row.status for row in outcome.rows["orders"]} <= {"confirmed", "rejected"}


@calm
@forall(plan=plans, disorder=disorders)
def test_whatever_is_asked_meanwhile_money_is_conserved(
    billing_kept: Kept, plan: Plan, disorder: Disorder
) -> None:
    """What is confirmed depends on when money comes. That it adds up does not."""
    happened = billings_with_requests(plan)
    outcome = billing_kept.take(happened, disorder)
    ordered = [fact.data.order_id for fact in happened.facts if isinstance(fact.data, OrderCreated)]
    outcomes = Counter(
        event.data.order_id
        for events in outcome.decided.values()
        for event in events
        if isinstance(event.data, PaymentConfirmed | PaymentRejected)
    )
    assert outcomes == Counter(ordered), "exactly one outcome for each"
    legs = outcome.rows["ledger"]
    assert sum(leg.amount for leg in legs) == 0
    for account in outcome.rows["accounts"]:
        own = [leg for leg in legs if (leg.user_id, leg.side) == (account.user_id, "customer")]
        assert account.balance == sum(leg.amount for leg in own)
        assert all(leg.balance >= 0 for leg in own)
    cancelled = {fact.data.order_id for fact in happened.facts if isinstance(fact.data, OrderCancelled)}
    for payment in outcome.rows["payments"]:
        given_up = payment.order_id in cancelled
        kept = sum(leg.amount for leg in legs if (leg.order_id, leg.side) == (payment.order_id, "shop"))
        assert kept == (payment.amount if payment.outcome == "confirmed" else 0)
        assert payment.outcome in ({"refunded", "rejected"} if given_up else {"confirmed", "rejected"})
    assert_nothing_is_decided_without_an_account(outcome)


def assert_nothing_is_decided_without_an_account(outcome: Outcome) -> None:
    """But that an order which was cancelled is not paid."""
    for events in outcome.decided.values():
        decided = [event.type for event in events if getattr(event.data, "reason", "") != "order_cancelled"]
        assert decided[0] == "AccountCreated"
