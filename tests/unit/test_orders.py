"""Orders: taken at once, and their status a function of the facts about them."""

from datetime import timedelta
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from chassis.step import Decider
from events.fact import Fact
from events.order import OrderCreated
from order_service.commands import PlaceOrder
from order_service.decide import SERVICE, decide
from order_service.evolve import evolve
from order_service.react import react
from order_service.state import Cancelled, Confirmed, Created, Order, Orders, Refunded, Rejected, Situation
from tests.unit.facts import ADA, confirmed, order_cancelled, order_created, order_id, refunded, rejected
from tests.unit.spec import START, Spec, event, request

orders = Spec(Decider(SERVICE, partial(decide, deadline=timedelta(seconds=30)), evolve, react), Orders())
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
    )


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
    assert row == only(placed.given(*decided)), "the whole row, updated_at included"
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
