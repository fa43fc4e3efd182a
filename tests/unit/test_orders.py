"""Orders: taken at once, and their status a function of the facts about them."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from choreo.chassis.transaction.step import Decider
from choreo.message.fact import Fact
from events.order import OrderCreated
from order_service.commands import AlreadyOver, CancelOrder, ExpireOrder, NoSuchOrder, NotDue, PlaceOrder
from order_service.decide import SERVICE, decide
from order_service.evolve import evolve
from order_service.state import (
    Cancelled,
    Change,
    Confirmed,
    Created,
    Order,
    Orders,
    Refunded,
    Rejected,
    Situation,
)
from tests.unit.facts import ADA, confirmed, order_cancelled, order_created, order_id, refunded, rejected
from tests.unit.spec import START, Spec, event, request

orders = Spec(Decider(SERVICE, partial(decide, deadline=timedelta(seconds=30)), evolve), Orders())
placed = orders.given(order_created())


def only(spec: Spec[Orders]) -> Order:
    (order,) = spec.state.orders.values()
    return order


def test_an_order_is_taken_and_says_until_when_it_is_decided() -> None:
    command = PlaceOrder(
        cause=request(), user_id=ADA, order_id=order_id(1), price=100_00, description="a lamp"
    )
    spec = orders.when(command).then(
        OrderCreated(
            order_id=order_id(1),
            user_id=ADA,
            price=100_00,
            description="a lamp",
            decide_by=orders.now + timedelta(seconds=30),
        )
    )
    assert spec.history[-1].correlation_id == request().id
    assert only(spec) == Order(
        id=order_id(1),
        user_id=ADA,
        price=100_00,
        description="a lamp",
        created_at=orders.now,
        updated_at=orders.now,
        decide_by=orders.now + timedelta(seconds=30),
        step=1,
        event_id=spec.history[-1].id,
        correlation_id=request().id,
        trace_id=request().trace_id,
        changes=[Change(step=1, status="created", reason=None, at=orders.now.isoformat())],
    )


def cancel(number: int = 1) -> CancelOrder:
    return CancelOrder(cause=request(2), user_id=ADA, order_id=order_id(number))


def expire(spec: Spec[Orders]) -> ExpireOrder:
    order = only(spec)
    return ExpireOrder(cause=order.cause, user_id=ADA, order_id=order.id)


def due(*facts: Fact) -> Spec[Orders]:
    """An order whose time is up, and what was heard about it in the meantime."""
    return orders.given(order_created(decide_by=START + timedelta(seconds=2)), *facts)


@pytest.mark.parametrize("facts", [[], [confirmed()]], ids=["undecided", "paid"])
def test_an_order_can_be_cancelled_before_and_after_it_is_paid(facts: list[Fact]) -> None:
    spec = placed.given(*facts).when(cancel()).then(order_cancelled(reason="by_user"))
    assert (only(spec).status, only(spec).reason) == ("cancelled", "by_user")
    assert spec.history[-1].correlation_id == request(2).id, "a cancel begins a flow of its own"


def test_a_cancelled_order_cannot_be_cancelled_again() -> None:
    placed.given(order_cancelled()).when(cancel()).then_refused(AlreadyOver("cancelled"))
    placed.given(order_cancelled(reason="expired")).when(cancel()).then_refused(AlreadyOver("cancelled"))
    placed.given(order_cancelled(), rejected(reason="order_cancelled")).when(cancel()).then_refused(
        AlreadyOver("cancelled")
    )


def test_a_rejected_order_cannot_be_cancelled() -> None:
    placed.given(rejected()).when(cancel()).then_refused(AlreadyOver("rejected"))


def test_a_refunded_order_cannot_be_cancelled() -> None:
    spec = placed.given(order_cancelled(), confirmed(), refunded()).when(cancel())
    spec.then_refused(AlreadyOver("refunded"))


def test_an_order_nobody_placed_cannot_be_cancelled() -> None:
    placed.when(cancel(2)).then_refused(NoSuchOrder())


def test_an_order_nobody_has_decided_about_expires_when_its_time_is_up() -> None:
    spec = due().when(expire(due())).then(order_cancelled(reason="expired"))
    assert (only(spec).status, only(spec).reason) == ("cancelled", "expired")


def test_an_expiry_follows_from_the_order_and_goes_on_with_its_flow() -> None:
    placed, cancelled = due().when(expire(due())).history
    assert (cancelled.causation_id, cancelled.correlation_id) == (placed.id, placed.correlation_id)


def test_an_order_does_not_expire_before_its_time() -> None:
    early = orders.given(order_created(decide_by=START + timedelta(seconds=3)))
    early.when(expire(early)).then_refused(NotDue(decide_by=START + timedelta(seconds=3)))


@pytest.mark.parametrize("fact", [confirmed(), rejected(), order_cancelled(), refunded()])
def test_an_order_that_is_decided_does_not_expire(fact: Fact) -> None:
    due(fact).when(expire(due())).then_nothing()


by_user, expired = order_cancelled(reason="by_user"), order_cancelled(reason="expired")
too_late = rejected(reason="order_cancelled")

SITUATIONS: list[tuple[list[Fact], Situation, str, str | None]] = [
    ([], Created(), "created", None),
    ([confirmed()], Confirmed(), "confirmed", None),
    ([rejected()], Rejected("insufficient_funds"), "rejected", "insufficient_funds"),
    ([by_user], Cancelled("by_user"), "cancelled", "by_user"),
    ([expired], Cancelled("expired"), "cancelled", "expired"),
    ([by_user, confirmed()], Cancelled("by_user"), "cancelled", "by_user"),
    ([by_user, rejected()], Cancelled("by_user"), "cancelled", "by_user"),
    ([expired, too_late], Cancelled("expired"), "cancelled", "expired"),
    ([expired, confirmed(), refunded()], Refunded("expired"), "refunded", "expired"),
]


@forall(st.sampled_from(SITUATIONS), st.data())
def test_status_is_a_function_of_the_set_of_facts(
    case: tuple[list[Fact], Situation, str, str | None], data: Any
) -> None:
    facts, situation, status, reason = case
    decided = [event(fact, number) for number, fact in enumerate(facts, start=2)]
    row = only(placed.given(*data.draw(st.permutations(decided))))
    assert (row.situation, row.status, row.reason) == (situation, status, reason)
    in_order = only(placed.given(*decided))
    assert replace(row, changes=in_order.changes) == in_order, "the whole row but for its history"
    assert (row.changes[-1]["status"], row.changes[-1]["reason"]) == (status, reason)
    steps = [change["step"] for change in row.changes]
    assert steps == sorted(set(steps))
    assert row.updated_at == START + timedelta(seconds=1 + len(facts))


def test_no_two_situations_share_a_set_of_facts() -> None:
    for (one, *_), (other, *_) in combinations(SITUATIONS, 2):
        assert set(one) != set(other)


def test_orders_do_not_touch_each_other() -> None:
    state = orders.given(order_created(1), order_created(2), confirmed(2)).state
    assert {id: order.status for id, order in state.orders.items()} == {
        order_id(1): "created",
        order_id(2): "confirmed",
    }
    assert [order.step for order in state.orders.values()] == [1, 2]


@pytest.mark.parametrize("fact", [confirmed(2), rejected(2), refunded(2), order_cancelled(2)])
def test_a_fact_about_an_order_never_placed_raises(fact: Fact) -> None:
    with pytest.raises(LookupError, match=f"{type(fact).__name__} .* about order {order_id(2)}"):
        placed.given(fact)
