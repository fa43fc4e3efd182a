"""No interleaving of cancel, deadline, payment and registration leaves money and status disagreeing.

`CHOREO_EXAMPLES=10000 pytest tests/unit/test_choreography.py` looks longer.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing_service.commands import DecidePayment, UndoPayment
from choreo.chassis.transaction.step import Decider
from choreo.message.decider import Command, Decision
from choreo.message.envelope import Event, derived_id
from choreo.message.fact import Fact
from events.billing import PaymentConfirmed, PaymentRefunded
from events.order import OrderCancelled
from order_service.commands import CancelOrder, ExpireOrder
from tests.law import breaches
from tests.unit.choreography import DEADLINE, DECIDERS, READERS, Choreography, Fetched
from tests.unit.facts import ADA

EXAMPLES = int(os.environ.get("CHOREO_EXAMPLES", "200"))
STEPS = 40


class Asks(NamedTuple):
    """Somebody asks for something: an amount of money, or a number of an order."""

    what: str
    amount: int


class Travels(NamedTuple):
    """Facts from an outbox to a topic, and from there to a reader."""

    link: tuple[str, str]
    published: int
    delivered: int


class ComesAgain(NamedTuple):
    """A record lies in its topic once more."""

    topic: str
    number: int


class TimerGoesOn(NamedTuple):
    """A round of the timer, or a part of one, so that whatever is next comes in between."""

    parts: str
    later: int


Outcome = Asks | Travels | ComesAgain | TimerGoesOn

wishes = st.sampled_from(["order", "order", "cancel", "cancel", "deposit", "withdraw", "register"])
counts = st.sampled_from([0, 1, 1, 2, 9])
steps = st.one_of(
    st.builds(Asks, wishes, st.integers(1, 4)),
    st.builds(Travels, st.sampled_from(READERS), counts, counts),
    st.builds(ComesAgain, st.sampled_from(["user", "order", "billing"]), st.integers(0, 3)),
    st.builds(
        TimerGoesOn,
        st.sampled_from(["fetch look expire", "fetch look", "fetch", "look expire", "expire"]),
        st.sampled_from([0, 0, 0, DEADLINE]),
    ),
)


class AnyOrder(RuleBasedStateMachine):
    """Any step at any time; the law when it is over."""

    deciders: ClassVar[dict[str, Decider[Any]]] = DECIDERS
    world: ClassVar[type[Choreography]] = Choreography

    def __init__(self) -> None:
        super().__init__()
        self.shop = self.world(self.deciders)

    @initialize(balance=st.none() | st.integers(min_value=1, max_value=8))
    def begin(self, balance: int | None) -> None:
        """With an account that holds so much, or before anybody has heard of the registration."""
        if balance is not None:
            self.shop.register()
            self.shop.deliver("billing", "user")
            self.shop.deposit(balance)

    @rule(step=steps)
    def step(self, step: Outcome) -> None:
        """One rule for all: of several, Hypothesis would leave some out in every run, and most of what may
        go wrong needs all of them.
        """
        match step:
            case Asks("register"):
                self.shop.register()
            case Asks("deposit", amount):
                self.shop.deposit(amount)
            case Asks("withdraw", amount):
                self.shop.withdraw(amount)
            case Asks("order", amount):
                self.shop.place(price=amount)
            case Asks("cancel", number) if self.shop.orders:
                self.shop.cancel(number)
            case Travels((reader, topic), published, delivered):
                for _ in range(published):
                    self.shop.publish(topic)
                for _ in range(delivered):
                    self.shop.deliver(reader, topic)
            case ComesAgain(topic, number):
                self.shop.publish_again(topic, number)
            case TimerGoesOn(parts, later):
                self.shop.seconds += later
                if "fetch" in parts:
                    self.shop.fetch_end()
                if "look" in parts:
                    self.shop.look_for_due_orders()
                if "expire" in parts:
                    self.shop.expire()

    @invariant()
    def a_second_passes(self) -> None:
        self.shop.seconds += 1

    @invariant()
    def no_balance_is_below_zero(self) -> None:
        account = self.shop.services["billing"].state.account
        assert account is None or account.balance >= 0

    def teardown(self) -> None:
        self.shop.settle()
        assert breaches(self.shop.ending()) == []
        assert list(self.shop.expired_in_vain()) == []
        assert list(self.shop.cancelled_in_vain()) == []
        for service in self.shop.services.values():
            assert service.rebuilt() == service.state, "the rows are the fold of the facts"


AnyOrder.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
)
test_money_and_status_agree_in_the_end_whatever_came_when = AnyOrder.TestCase


# The law is worth what it notices: each of these takes a rule out.


def what_was_paid_is_not_given_back(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, UndoPayment) and state.payments[command.order_id].outcome == "confirmed":
        return []
    return decision


def what_waits_is_not_given_up(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, UndoPayment) and state.payments[command.order_id].outcome == "waiting":
        return []
    return decision


def the_balance_is_not_looked_at(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, DecidePayment) and decision:
        payment, balance = state.payments[command.order_id], state.account.balance
        id, left = derived_id("payment", payment.order_id), max(0, balance - payment.amount)
        names = {"payment_id": id, "order_id": payment.order_id, "user_id": ADA}
        return [PaymentConfirmed(**names, amount=payment.amount, balance=left)]
    return decision


def a_decided_order_expires(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, ExpireOrder):
        return [OrderCancelled(order_id=command.order_id, user_id=ADA, reason="expired")]
    return decision


def what_is_over_is_cancelled_again(command: Command, state: Any, decision: Decision) -> Decision:
    if isinstance(command, CancelOrder):
        return [OrderCancelled(order_id=command.order_id, user_id=ADA, reason="by_user")]
    return decision


Spoil = Callable[[Command, Any, Decision], Decision]


def spoilt(service: str, spoil: Spoil) -> dict[str, Decider[Any]]:
    sound = DECIDERS[service]

    def decide(command: Command, state: Any, now: datetime) -> Decision:
        return spoil(command, state, sound.decide(command, state, now))

    return {**DECIDERS, service: replace(sound, decide=decide)}


def deaf(service: str, *types: type[Fact]) -> dict[str, Decider[Any]]:
    """As if it did not hear of these."""
    sound = DECIDERS[service]

    def evolve(state: Any, event: Event[Fact]) -> Any:
        return state if isinstance(event.data, types) else sound.evolve(state, event)

    return {**DECIDERS, service: replace(sound, evolve=evolve)}


class Hasty(Choreography):
    def may_expire(self, fetched: Fetched) -> bool:
        """As soon as the time is up, whatever has not been heard yet."""
        return True


class Forgetful(Choreography):
    def deliver(self, reader: str, topic: str) -> bool:
        """Every record is new to it."""
        self.services[reader].seen.clear()
        return super().deliver(reader, topic)


RULES: dict[str, tuple[dict[str, Decider[Any]], type[Choreography]]] = {
    **{
        spoil.__name__: (spoilt("billing", spoil), Choreography)
        for spoil in (
            what_was_paid_is_not_given_back,
            what_waits_is_not_given_up,
            the_balance_is_not_looked_at,
        )
    },
    **{
        spoil.__name__: (spoilt("order", spoil), Choreography)
        for spoil in (a_decided_order_expires, what_is_over_is_cancelled_again)
    },
    "a_refund_does_not_change_the_status": (deaf("order", PaymentRefunded), Choreography),
    "a_refund_is_not_told": (deaf("notification", PaymentRefunded), Choreography),
    "an_order_expires_before_the_news_is_in": (DECIDERS, Hasty),
    "a_repeat_is_taken_again": (DECIDERS, Forgetful),
}


@pytest.mark.parametrize("taken_out", RULES)
def test_the_law_notices_when_a_rule_is_taken_out(taken_out: str) -> None:
    class Spoilt(AnyOrder):
        deciders, world = RULES[taken_out]

    looking = settings(
        AnyOrder.TestCase.settings,
        max_examples=5000,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Spoilt, settings=looking)
