"""Notifications: one for every outcome, in the right tone, and its fate settled once."""

import pytest

from choreo.chassis.transaction.step import Decider
from choreo.message.envelope import derived_id
from choreo.message.fact import Fact
from events.notification import NotificationFailed, NotificationKind, NotificationSent
from notification_service.commands import RecordDelivery
from notification_service.decide import SERVICE, decide
from notification_service.evolve import evolve
from notification_service.state import Notification, Notifications, Recipient
from notification_service.texts import money
from tests.unit.facts import ADA, confirmed, order_id, refunded, registered, rejected
from tests.unit.spec import Spec

notifications = Spec(Decider(SERVICE, decide, evolve), Notifications())


def only(spec: Spec[Notifications]) -> Notification:
    (notification,) = spec.state.notifications.values()
    return notification


def answered(spec: Spec[Notifications], *, delivered: bool) -> Spec[Notifications]:
    row = only(spec)
    command = RecordDelivery(cause=row.cause, user_id=ADA, notification_id=row.id, delivered=delivered)
    return spec.when(command)


def test_a_confirmed_order_is_told_gladly() -> None:
    spec = notifications.given(registered).heard(confirmed(amount=100_00, balance=300_05)).then_nothing()
    row, heard = only(spec), spec.history[-1]
    assert row.id == derived_id("notification", order_id(1), "order_confirmed")
    assert (row.kind, row.channel, row.status, row.sent_at) == ("order_confirmed", "email", "pending", None)
    assert (row.user_id, row.order_id, row.created_at, row.step) == (ADA, order_id(1), heard.time, 2)
    assert "Good news" in row.subject and "100.00" in row.subject
    assert "glad" in row.text and str(order_id(1)) in row.text and "100.00" in row.text
    assert "300.05" in row.text


def test_a_rejected_order_is_told_sorrily_and_with_what_is_missing() -> None:
    row = only(notifications.given(registered).heard(rejected(amount=500_00, balance=300_00)))
    assert row.id == derived_id("notification", order_id(1), "order_rejected")
    assert (row.kind, row.status) == ("order_rejected", "pending")
    assert "Sorry" in row.subject and "500.00" in row.subject
    assert "sorry" in row.text and str(order_id(1)) in row.text and "500.00" in row.text
    assert "holds 300.00" in row.text and "200.00 too little" in row.text


def test_an_order_cancelled_before_it_was_paid_is_told_as_such_and_not_as_lack_of_money() -> None:
    row = only(notifications.heard(rejected(amount=500_00, balance=300_00, reason="order_cancelled")))
    assert row.id == derived_id("notification", order_id(1), "order_cancelled")
    assert (row.kind, row.status) == ("order_cancelled", "pending")
    assert "cancelled" in row.subject and "500.00" in row.subject
    assert str(order_id(1)) in row.text and "500.00" in row.text and "holds 300.00" in row.text
    assert "too little" not in row.text


def test_a_refund_is_told_with_what_is_there_again() -> None:
    spec = notifications.given(confirmed()).heard(refunded(amount=100_00, balance=400_00)).then_nothing()
    row = spec.state.notifications[derived_id("notification", order_id(1), "order_refunded")]
    assert (row.kind, row.status, len(spec.state.notifications)) == ("order_refunded", "pending", 2)
    assert "refunded" in row.subject and "100.00" in row.subject
    assert str(order_id(1)) in row.text and "100.00" in row.text and "holds 400.00" in row.text


def test_a_notification_does_not_wait_for_its_user() -> None:
    spec = notifications.heard(confirmed())
    assert only(spec).status == "pending" and spec.state.recipient is None
    assert spec.heard(registered).state.recipient == Recipient(ADA, "Ada", "ada@example.org")


def sent(kind: NotificationKind = "order_confirmed") -> NotificationSent:
    return NotificationSent(
        notification_id=derived_id("notification", order_id(1), kind),
        user_id=ADA,
        order_id=order_id(1),
        kind=kind,
        channel="email",
    )


def failed() -> NotificationFailed:
    return NotificationFailed(**sent().model_dump())


@pytest.mark.parametrize(
    ("delivered", "fact", "status"), [(True, sent(), "sent"), (False, failed(), "failed")]
)
def test_the_mail_servers_first_answer_is_recorded_and_wins(delivered: bool, fact: Fact, status: str) -> None:
    spec = answered(notifications.given(confirmed()), delivered=delivered).then(fact)
    row, own = only(spec), spec.history[-1]
    assert (row.status, row.sent_at) == (status, own.time if delivered else None)
    for again in (True, False):
        assert only(answered(spec, delivered=again).then_nothing()) == row


def test_the_flow_goes_on_through_the_mail() -> None:
    spec = answered(notifications.given(confirmed()), delivered=True)
    heard, own = spec.history
    assert (own.causation_id, own.correlation_id, own.trace_id) == (
        heard.id,
        heard.correlation_id,
        heard.trace_id,
    )


def test_an_order_may_be_told_of_twice_in_two_kinds() -> None:
    state = notifications.given(confirmed(), rejected()).state
    assert {row.kind for row in state.notifications.values()} == {"order_confirmed", "order_rejected"}


@pytest.mark.parametrize(
    ("minor", "text"), [(1, "0.01"), (10, "0.10"), (100_00, "100.00"), (999_999_999_99, "999999999.99")]
)
def test_money_reads_with_two_places(minor: int, text: str) -> None:
    assert money(minor) == text
