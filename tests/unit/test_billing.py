"""Billing: who may pay, and with what."""

from functools import partial
from typing import Literal

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from billing_service.commands import Deposit, InsufficientFunds, NoAccount, Withdraw
from billing_service.decide import SERVICE, decide
from billing_service.evolve import evolve
from billing_service.react import react
from billing_service.state import Billing
from choreo.chassis.transaction.step import Decider
from choreo.message.envelope import event_id
from events.billing import MoneyDeposited, MoneyWithdrawn, PaymentConfirmed, PaymentRejected
from tests.unit.facts import (
    ADA,
    account,
    confirmed,
    deposited,
    order_cancelled,
    order_created,
    order_id,
    refunded,
    registered,
    rejected,
    withdrawn,
)
from tests.unit.spec import Spec, event, request

decider = Decider(SERVICE, partial(decide, currency="EUR"), evolve, react)
billing = Spec(decider, Billing())
rich = billing.given(registered, account, deposited(400_00, balance=400_00))


def deposit(amount: int, number: int = 1) -> Deposit:
    return Deposit(cause=request(number), user_id=ADA, amount=amount)


def withdraw(amount: int, number: int = 1) -> Withdraw:
    return Withdraw(cause=request(number), user_id=ADA, amount=amount)


def balance_of(spec: Spec[Billing]) -> int:
    assert spec.state.account is not None
    return spec.state.account.balance


def test_an_account_comes_into_being_with_the_registration() -> None:
    spec = billing.heard(registered).then(account)
    assert balance_of(spec) == 0


def test_a_second_registration_opens_no_second_account() -> None:
    billing.given(registered, account).heard(registered).then_nothing()


def test_a_deposit_names_its_amount_and_the_new_balance() -> None:
    spec = rich.when(deposit(50_00)).then(
        MoneyDeposited(
            entry_id=event_id("billing", request().id, "MoneyDeposited"),
            user_id=ADA,
            amount=50_00,
            balance=450_00,
        )
    )
    assert balance_of(spec) == 450_00


def test_a_withdrawal_may_take_all() -> None:
    rich.when(withdraw(400_00)).then(
        MoneyWithdrawn(
            entry_id=event_id("billing", request().id, "MoneyWithdrawn"),
            user_id=ADA,
            amount=400_00,
            balance=0,
        )
    )


def test_a_withdrawal_of_more_is_refused_with_its_numbers() -> None:
    refusal = InsufficientFunds(balance=400_00, requested=400_01)
    rich.when(withdraw(400_01)).then_refused(refusal)
    assert refusal.numbers == {"balance": 400_00, "requested": 400_01}


@pytest.mark.parametrize("command", [deposit(1), withdraw(1)])
def test_without_an_account_nothing_moves(command: Deposit | Withdraw) -> None:
    billing.when(command).then_refused(NoAccount())


def test_an_order_is_paid() -> None:
    spec = rich.heard(order_created(price=100_00)).then(confirmed(amount=100_00, balance=300_00))
    assert balance_of(spec) == 300_00


def test_an_order_for_exactly_the_balance_is_paid() -> None:
    rich.heard(order_created(price=400_00)).then(confirmed(amount=400_00, balance=0))


def test_an_order_for_a_cent_more_is_rejected_with_its_id_and_numbers() -> None:
    spec = rich.heard(order_created(price=400_01)).then(rejected(amount=400_01, balance=400_00))
    assert balance_of(spec) == 400_00


def test_of_two_orders_of_300_on_400_the_first_is_paid() -> None:
    rich.heard(order_created(1, price=300_00), order_created(2, price=300_00)).then(
        confirmed(1, amount=300_00, balance=100_00), rejected(2, amount=300_00, balance=100_00)
    )


def test_an_order_before_its_account_waits() -> None:
    spec = billing.heard(order_created()).then_nothing()
    assert [payment.outcome for payment in spec.state.payments.values()] == ["waiting"]


def test_orders_that_waited_are_decided_in_order_once_the_account_is_there() -> None:
    waiting = billing.heard(*(order_created(number) for number in (3, 1, 2)))
    spec = waiting.heard(registered).then(account, rejected(3), rejected(1), rejected(2))
    assert {payment.outcome for payment in spec.state.payments.values()} == {"rejected"}


def test_waiting_orders_loaded_in_any_order_are_decided_in_order() -> None:
    waiting = billing.heard(*(order_created(number) for number in (3, 1, 2))).state
    shuffled = Billing(payments=dict(sorted(waiting.payments.items(), reverse=True)))
    Spec(decider, shuffled).heard(registered).then(account, rejected(3), rejected(1), rejected(2))


def test_a_payment_follows_from_its_order_however_long_that_waited() -> None:
    spec = billing.heard(order_created(), registered)
    order, outcome = spec.history[0], spec.history[-1]
    assert isinstance(outcome.data, PaymentRejected)
    assert (outcome.causation_id, outcome.correlation_id) == (order.id, order.correlation_id)
    assert outcome.id == event_id("billing", order.id, "PaymentRejected")


def test_a_payment_once_decided_stays_decided() -> None:
    paid = rich.heard(order_created())
    assert [type(fact) for fact in paid.decided] == [PaymentConfirmed]
    paid.when(*react(event(order_created(), 1), paid.state)).then_nothing()


def test_an_order_cancelled_while_it_waits_is_rejected_as_cancelled_and_never_paid() -> None:
    waiting = billing.heard(order_created(1), order_created(2))
    spec = waiting.heard(order_cancelled(1)).then(rejected(1, reason="order_cancelled", balance=0))
    assert spec.state.payments[order_id(1)].outcome == "rejected"
    assert spec.history[-1].causation_id == spec.history[-2].id, "it follows from the cancel"
    spec.heard(registered).then(account, rejected(2))


def test_an_order_cancelled_after_it_was_paid_is_refunded() -> None:
    paid = rich.heard(order_created(price=100_00))
    assert balance_of(paid) == 300_00
    spec = paid.heard(order_cancelled()).then(refunded(amount=100_00, balance=400_00))
    assert balance_of(spec) == 400_00
    assert spec.state.payments[order_id(1)].outcome == "refunded"
    customer, shop = (spec.state.ledger[spec.history[-1].id, side] for side in ("customer", "shop"))
    assert (customer.amount, shop.amount) == (100_00, -100_00)
    for leg in (customer, shop):
        assert (leg.kind, leg.order_id, leg.balance) == ("refund", order_id(1), 400_00)


def test_a_payment_is_refunded_once() -> None:
    once = rich.heard(order_created(), order_cancelled())
    once.heard(order_cancelled(reason="expired")).then_nothing()


def test_a_rejected_payment_is_left_as_it_is_when_its_order_is_cancelled() -> None:
    spec = rich.heard(order_created(price=400_01)).heard(order_cancelled()).then_nothing()
    assert spec.state.payments[order_id(1)].outcome == "rejected"


def test_a_cancel_of_an_order_nobody_asked_to_pay_raises() -> None:
    with pytest.raises(LookupError, match=f"order {order_id(1)} was cancelled"):
        rich.heard(order_cancelled())


def test_every_leg_says_when_and_for_what() -> None:
    spec = rich.heard(order_created(price=100_00))
    customer, shop = (spec.state.ledger[spec.history[-1].id, side] for side in ("customer", "shop"))
    assert (customer.amount, shop.amount) == (-100_00, 100_00)
    for leg in (customer, shop):
        assert (leg.kind, leg.order_id, leg.at) == ("payment", order_id(1), spec.history[-1].time)


def test_money_does_not_move_for_a_user_without_an_account() -> None:
    with pytest.raises(AssertionError, match="without an account"):
        billing.given(withdrawn(1, balance=0))


Action = tuple[Literal["deposit", "withdraw", "order", "register"], int]

amounts = st.integers(min_value=1, max_value=9)
actions = st.lists(
    st.tuples(st.sampled_from(["deposit", "deposit", "withdraw", "order", "register"]), amounts), max_size=30
)


@forall(actions)
def test_laws_of_money(actions: list[Action]) -> None:
    spec, deposits, withdrawals, payments, orders = billing, 0, 0, 0, 0
    for number, (kind, amount) in enumerate(actions):
        match kind:
            case "register":
                spec = spec.heard(registered)
            case "deposit":
                spec = spec.when(deposit(amount, number))
            case "withdraw":
                spec = spec.when(withdraw(amount, number))
            case "order":
                spec, orders = spec.heard(order_created(number, price=amount)), orders + 1
        for fact in spec.decided:
            match fact:
                case MoneyDeposited():
                    deposits += fact.amount
                case MoneyWithdrawn():
                    withdrawals += fact.amount
                case PaymentConfirmed():
                    payments += fact.amount
        legs = spec.state.ledger.values()
        balance = spec.state.account.balance if spec.state.account else 0
        assert balance == deposits - withdrawals - payments >= 0
        assert sum(leg.amount for leg in legs) == 0
        assert sum(leg.amount for leg in legs if leg.side == "customer") == balance

    entries = {entry for entry, _ in spec.state.ledger}
    for entry in entries:
        assert sum(leg.amount for leg in spec.state.ledger.values() if leg.entry_id == entry) == 0

    outcomes = [
        e.data.order_id for e in spec.history if isinstance(e.data, PaymentConfirmed | PaymentRejected)
    ]
    assert len(outcomes) == len(set(outcomes)) == (orders if spec.state.account else 0)
    assert billing.given(*spec.history).state == spec.state, "the rows are the fold of the facts"
