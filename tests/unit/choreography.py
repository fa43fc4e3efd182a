"""The services' pure functions on topics of their own: a model in which everything may come at any time.

One user, because nothing that happens to one touches another. A service takes an input once, by its id, as
the journal makes sure. Its facts lie in its outbox until they are published; a topic keeps their order and
may hold a record again later; each reader has its own place in it. A second passes with every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import billing_service.evolve
import notification_service.evolve
import order_service.evolve
from billing_service import decide as billing
from billing_service.commands import Deposit, Withdraw
from billing_service.react import react as react_billing
from billing_service.state import Billing
from choreo.chassis.transaction.step import Decider, Outcome, hear, obey
from choreo.message.decider import Command, Refusal, types_of
from choreo.message.envelope import Cause, Event, derived_id
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRejected
from events.order import OrderCancelled
from notification_service import decide as notification
from notification_service.commands import RecordDelivery
from notification_service.state import Notifications
from order_service import decide as order
from order_service.commands import AlreadyOver, CancelOrder, ExpireOrder, PlaceOrder
from order_service.state import Order, Orders
from tests.law import Ending, Leg
from tests.unit import spec
from tests.unit.facts import ADA, registered
from tests.unit.spec import START, request

DEADLINE = 20
"""Seconds."""
READERS = (
    ("billing", "user"),
    ("billing", "order"),
    ("order", "billing"),
    ("notification", "user"),
    ("notification", "billing"),
)
"""Who reads whose topic."""

DECIDERS: dict[str, Decider[Any]] = {
    "order": Decider(
        "order", partial(order.decide, deadline=timedelta(seconds=DEADLINE)), order_service.evolve.evolve
    ),
    "billing": Decider(
        "billing", partial(billing.decide, currency="EUR"), billing_service.evolve.evolve, react_billing
    ),
    "notification": Decider("notification", notification.decide, notification_service.evolve.evolve),
}
CONSUMED: dict[str, tuple[type[Fact], ...]] = {
    "order": types_of(order_service.evolve.Consumed),
    "billing": types_of(billing_service.evolve.Consumed),
    "notification": types_of(notification_service.evolve.Consumed),
}
"""Whatever else lies in a topic is passed over, as the consumer does."""


class Fetched(NamedTuple):
    """Where billing's topic ended, and when that was asked."""

    at: datetime
    end: int


@dataclass
class Service:
    decider: Decider[Any]
    empty: Any
    sequence: int = 0
    seen: set[UUID] = field(default_factory=set)
    applied: list[Event[Fact]] = field(default_factory=list)
    """Heard and decided, in order."""
    decided: list[Event[Fact]] = field(default_factory=list)
    published: int = 0
    """How many of those are."""

    def __post_init__(self) -> None:
        self.state = self.empty

    def hear(self, heard: Event[Fact], now: datetime) -> None:
        if heard.id not in self.seen:
            self.seen.add(heard.id)
            self.applied.append(heard)
            self._after(hear(self.decider, self.state, heard, now, self.sequence))

    def obey(self, command: Command, id: UUID, now: datetime) -> Refusal | None:
        if id in self.seen:
            return None
        step = obey(self.decider, self.state, command, now, self.sequence)
        if step.refusal is None:
            self.seen.add(id)
        self._after(step)
        return step.refusal

    def rebuilt(self) -> Any:
        """What its rows would be if they were made anew of everything it applied."""
        state = self.empty
        for number, event in enumerate(self.applied, start=1):
            state = self.decider.applied(state, replace(event, applied_sequence=number))
        return state

    def _after(self, step: Outcome[Any]) -> None:
        self.state, self.sequence = step.state, step.sequence
        self.decided += step.events
        self.applied += step.events


class Choreography:
    def __init__(self, deciders: dict[str, Decider[Any]]) -> None:
        empty = {"order": Orders(), "billing": Billing(), "notification": Notifications()}
        self.services = {name: Service(deciders[name], empty[name]) for name in empty}
        self.topics: dict[str, list[Event[Fact]]] = {"user": [], **{name: [] for name in empty}}
        self.read = dict.fromkeys(READERS, 0)
        self.known_since: dict[UUID, datetime] = {}
        """By event: when it was first published."""
        self.fetched: Fetched | None = None
        self.due: list[Order] = []
        self.seconds = self.requests = 0

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    # -- what people ask -------------------------------------------------------------------------

    def register(self) -> None:
        """The registration reaches its topic; until then the user has a token, and nobody knows of them."""
        if not self.topics["user"]:
            self.topics["user"].append(spec.event(registered, 0))

    def deposit(self, amount: int) -> None:
        self._ask("billing", Deposit(cause=self._request(), user_id=ADA, amount=amount))

    def withdraw(self, amount: int) -> None:
        self._ask("billing", Withdraw(cause=self._request(), user_id=ADA, amount=amount))

    def place(self, price: int) -> None:
        cause = self._request()
        id = derived_id("order", cause.id)
        self._ask("order", PlaceOrder(cause=cause, user_id=ADA, order_id=id, price=price, description=None))

    def cancel(self, number: int) -> None:
        """One of the orders. Refused if and only if its status says that it is over."""
        id = list(self.orders)[number % len(self.orders)]
        over = self.orders[id].status in ("rejected", "cancelled", "refunded")
        command = CancelOrder(cause=self._request(), user_id=ADA, order_id=id)
        refusal = self._ask("order", command)
        assert isinstance(refusal, AlreadyOver) == over, f"{refusal} for {self.orders[id]}"

    def _request(self) -> Cause:
        self.requests += 1
        return request(self.requests)

    @property
    def orders(self) -> dict[UUID, Order]:
        return dict(self.services["order"].state.orders)

    def _ask(self, service: str, command: Command) -> Refusal | None:
        return self.services[service].obey(command, command.cause.id, self.now)

    # -- what happens by itself, at any time -----------------------------------------------------

    def publish(self, service: str) -> bool:
        """The oldest fact of its outbox; False if there is none."""
        here = self.services.get(service)
        if here is None or here.published == len(here.decided):
            return False
        fact = here.decided[here.published]
        self.topics[service].append(replace(fact, applied_sequence=0))
        self.known_since[fact.id] = self.now
        here.published += 1
        return True

    def publish_again(self, topic: str, number: int) -> None:
        records = self.topics[topic]
        if records:
            records.append(records[number % len(records)])

    def deliver(self, reader: str, topic: str) -> bool:
        """The next record of a topic; False if it is read to its end."""
        offset = self.read[reader, topic]
        if offset == len(self.topics[topic]):
            return False
        self.read[reader, topic] += 1
        event = self.topics[topic][offset]
        if type(event.data) in CONSUMED[reader]:
            self.services[reader].hear(event, self.now)
        return True

    def fetch_end(self) -> None:
        """The order service's timer asks where billing's topic ends."""
        self.fetched = Fetched(self.now, len(self.topics["billing"]))

    def look_for_due_orders(self) -> None:
        """Which were due when the end was fetched, and are undecided once it is read so far."""
        if self.fetched and self.may_expire(self.fetched):
            at = self.fetched.at
            undecided = [order for order in self.orders.values() if order.status == "created"]
            self.due = [order for order in undecided if order.decide_by <= at]

    def expire(self) -> None:
        """Those, unless they are decided by now."""
        for seen in self.due:
            before = self.orders[seen.id]
            command = ExpireOrder(cause=before.cause, user_id=ADA, order_id=before.id)
            self.services["order"].obey(command, derived_id("expiry", before.id), self.now)
            after = self.orders[seen.id]
            assert before.status == "created" or after == before, f"{before.status} and then expired"

    def may_expire(self, fetched: Fetched) -> bool:
        return self.read["order", "billing"] >= fetched.end

    def mail(self) -> bool:
        """Of the oldest notification that is pending; False if none is."""
        here = self.services["notification"]
        for told in here.state.notifications.values():
            if told.status == "pending" and here.state.recipient:
                command = RecordDelivery(
                    cause=told.cause, user_id=ADA, notification_id=told.id, delivered=True
                )
                here.obey(command, derived_id("delivery", told.id), self.now)
                return True
        return False

    # -- how it ends -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Until nothing is on its way. The registration comes at last, if it has not come yet."""
        self.register()
        while any(
            [
                *(self.publish(service) for service in self.services),
                *(self.deliver(*link) for link in READERS),
                self.mail(),
            ]
        ):
            self.seconds += 1

    def ending(self) -> Ending:
        books, orders = self.services["billing"].state, self.services["order"].state
        told = self.services["notification"].state.notifications
        return Ending(
            facts=[event.data for service in self.services.values() for event in service.decided],
            statuses={id: order.status for id, order in orders.orders.items()},
            payments={id: payment.outcome for id, payment in books.payments.items()},
            balances={ADA: books.account.balance} if books.account else {},
            legs=[Leg(leg.user_id, leg.order_id, leg.side, leg.amount) for leg in books.ledger.values()],
            told=[(told.order_id, told.kind) for told in told.values()],
        )

    def cancelled_in_vain(self) -> Iterator[str]:
        """Orders whose payment was decided otherwise although billing had heard that they were cancelled."""
        cancelled: set[UUID] = set()
        for event in self.services["billing"].applied:
            match event.data:
                case OrderCancelled(order_id=id):
                    cancelled.add(id)
                case PaymentConfirmed(order_id=id) if id in cancelled:
                    yield f"order {id} was paid when it was cancelled"
                case PaymentRejected(order_id=id, reason="insufficient_funds") if id in cancelled:
                    yield f"order {id} was found too dear when it was cancelled"

    def expired_in_vain(self) -> Iterator[str]:
        """Orders that were cancelled as expired although their decision lay in the topic in time."""
        for outcome in self.services["billing"].decided:
            match outcome.data:
                case PaymentConfirmed(order_id=id) | PaymentRejected(order_id=id):
                    order = self.orders[id]
                    in_time = self.known_since[outcome.id] < order.decide_by
                    if order.cancel_reason == "expired" and in_time:
                        yield f"order {id} expired, and {outcome.type} had been published in time"
