"""The judge is content with a good history, and names the promise that a bad one breaks."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from choreo.chaos.history import Record, Request
from choreo.chaos.judge import judge, repeats, unknown
from tests.unit.chaos.past import SERVICES, Past, header, with_data, with_header


class Story(Past):
    """Ada pays in 400.00, gets the first order for 300.00 and not the second for 200.00."""

    def __init__(self) -> None:
        super().__init__()
        self.ada = self.register("Ada")
        self.deposit(self.ada, 400_00)
        self.first = self.order(self.ada, 300_00, "first")
        self.second = self.order(self.ada, 200_00, "second")


@pytest.fixture
def past() -> Story:
    return Story()


def broken(past: Past) -> set[str]:
    return {violation.promise for violation in judge(past.history())}


def test_a_good_history_keeps_every_promise(past: Story) -> None:
    assert judge(past.history()) == []


def test_whatever_customers_do_can_be_a_good_history(past: Story) -> None:
    bob = past.register("Bob")
    past.deposit(bob, 100_00)
    cancelled = past.place(bob, 1, "cancelled before it was paid")
    past.cancel(cancelled)
    past.reject(cancelled, "order_cancelled")
    crossed = past.place(bob, 999_00, "cancelled while its rejection was on its way")
    past.cancel(crossed, "expired")
    past.reject(crossed)
    past.withdraw(bob, 60_00)
    past.order(bob, 40_00, "for exactly the balance")
    past.cancel(past.first)
    past.refund(past.first)
    past.signing_key("second")
    for _ in range(2):
        past.end_sessions(bob)
    assert judge(past.history()) == []


def test_nothing_at_all_is_a_good_history() -> None:
    assert judge(Past().history()) == []


def test_tables_columns_and_types_that_are_new_do_not_disturb(past: Story) -> None:
    past.add("order", "order_views", id=1)
    past.row("order", "orders", id=past.first)["colour"] = "red"
    past.publish("PaymentDelayed", past.ada, user_id=past.ada)
    past.row("billing", "keys", key=past.ada)["sequence"] -= 1
    assert judge(past.history()) == []


def test_a_service_that_it_does_not_know_is_named_and_not_judged(past: Story) -> None:
    assert unknown(past.history()) == []
    past.tables["shipping"] = {"parcels": [{"id": "1"}], "journal": [], "parked": []}
    past.ask("other", "shipping POST /parcels", past.ada, 0, id="1")
    assert (unknown(past.history()), broken(past)) == (["shipping"], set())


def test_a_violation_names_ids_and_figures(past: Story) -> None:
    past.row("billing", "accounts", user_id=past.ada)["balance"] = 99_00
    texts = [violation.text for violation in judge(past.history())]
    assert texts == [
        f"the account of {past.ada} holds 9900, and by the ledger it holds 10000",
        f"the account of {past.ada} holds 9900, and by the facts it holds 10000",
        f"billing.accounts {past.ada} of {past.ada} has balance 9900, and by the log it is 10000",
    ]


# I1


def test_an_entry_whose_legs_do_not_sum_to_zero_breaks_i1(past: Story) -> None:
    past.row("billing", "ledger", side="world")["amount"] += 1
    assert broken(past) == {"I1", "I5"}


def test_two_entries_that_make_up_for_each_other_break_i1(past: Story) -> None:
    past.row("billing", "ledger", side="world")["amount"] += 1
    past.row("billing", "ledger", side="shop")["amount"] -= 1
    assert broken(past) == {"I1", "I5"}


def test_a_ledger_that_does_not_sum_to_zero_is_told_with_its_sum(past: Story) -> None:
    past.row("billing", "ledger", side="world")["amount"] += 1
    assert "the ledger sums to 1 instead of zero" in [violation.text for violation in judge(past.history())]


def test_an_entry_of_four_legs_breaks_i1_although_they_sum_to_zero(past: Story) -> None:
    entry = past.row("billing", "ledger", side="world")["entry_id"]
    legs = [row for row in past.tables["billing"]["ledger"] if row["entry_id"] == entry]
    past.tables["billing"]["ledger"] += [leg | {"side": f"{leg['side']}-2"} for leg in legs]
    assert broken(past) == {"I1", "I5"}


def test_one_leg_too_few_breaks_i1(past: Story) -> None:
    past.remove("billing", "ledger", side="world")
    assert broken(past) == {"I1", "I5"}


def test_an_account_that_is_not_what_was_moved_breaks_i1(past: Story) -> None:
    past.row("billing", "accounts", user_id=past.ada)["balance"] += 1
    assert broken(past) == {"I1", "I5"}


def test_a_fact_whose_own_balance_is_wrong_breaks_i1(past: Story) -> None:
    """Rows follow the facts; it is the fact in the middle that is not right."""
    past.deposit(past.ada, 5_00)
    past.deposit(past.ada, 6_00)
    wrong = past.find("MoneyDeposited", amount=5_00)
    past.put(wrong, with_data(wrong, balance=104_00))
    for leg in past.tables["billing"]["ledger"]:
        if leg["entry_id"] == header(wrong, "ce_id"):
            leg["balance"] = 104_00
    assert broken(past) == {"I1"}


def test_a_rejection_that_tells_a_wrong_balance_breaks_i1(past: Story) -> None:
    rejected = past.find("PaymentRejected")
    past.put(rejected, with_data(rejected, balance=99_00))
    note = past.row("notification", "notifications", order_id=past.second)
    note["text"] = note["text"].replace("100.00", "99.00")
    assert broken(past) == {"I1"}


# I2


def test_an_order_without_an_outcome_breaks_i2(past: Story) -> None:
    past.place(past.ada, 1_00, "third")
    assert broken(past) == {"I2", "I7"}


def test_an_order_that_is_paid_twice_breaks_i2(past: Story) -> None:
    first = past.find("PaymentConfirmed")
    past.deposit(past.ada, 300_00)
    past.tables["notification"]["notifications"].remove(
        past.row("notification", "notifications", order_id=past.first)
    )
    past.confirm(past.first)
    assert "I2" in broken(past)
    assert header(first, "ce_id") in next(v.text for v in judge(past.history()) if v.promise == "I2")


def test_an_order_that_is_both_paid_and_rejected_breaks_i2(past: Story) -> None:
    past.reject(past.first)
    assert broken(past) == {"I2"}


def test_an_outcome_of_an_order_nobody_placed_breaks_i2(past: Story) -> None:
    """And everything else that follows from an order that is gone from its topic."""
    created = past.find("OrderCreated", order_id=past.second)
    past.put(created, with_header(created, "ce_type", "SomethingElse"))
    assert broken(past) == {"I2", "I5", "I6", "I8"}


def test_an_outcome_about_another_amount_breaks_i2(past: Story) -> None:
    rejected = past.find("PaymentRejected")
    past.put(rejected, with_data(rejected, amount=200_01))
    note = past.row("notification", "notifications", order_id=past.second)
    note |= {name: note[name].replace("200.00", "200.01") for name in ("subject", "text")}
    assert broken(past) == {"I2"}


def test_an_order_for_exactly_the_balance_that_is_rejected_breaks_i2(past: Story) -> None:
    past.reject(past.place(past.ada, 100_00, "third"))
    assert broken(past) == {"I2"}


def test_a_payment_that_is_refunded_twice_breaks_i2(past: Story) -> None:
    past.cancel(past.first)
    past.refund(past.first)
    assert broken(past) == set()
    past.refund(past.first)
    assert broken(past) == {"I2", "I3"}, "and it is told twice"


def test_a_paid_order_that_is_cancelled_and_not_refunded_breaks_i2(past: Story) -> None:
    past.cancel(past.first)
    assert broken(past) == {"I2"}


def test_a_refund_of_an_order_nobody_cancelled_breaks_i2(past: Story) -> None:
    past.refund(past.first)
    assert broken(past) == {"I2"}


def test_a_refund_nobody_was_told_of_breaks_i3(past: Story) -> None:
    past.cancel(past.first)
    past.refund(past.first)
    past.remove("notification", "notifications", order_id=past.first, kind="order_refunded")
    assert broken(past) == {"I3", "I5"}


def test_a_refund_of_a_payment_never_made_breaks_i2(past: Story) -> None:
    past.cancel(past.first)
    past.refund(past.first)
    refunded = past.find("PaymentRefunded")
    past.put(refunded, with_data(refunded, payment_id=past.new_id()))
    assert broken(past) == {"I2"}


# I3


def test_an_outcome_that_nobody_was_told_of_breaks_i3(past: Story) -> None:
    past.remove("notification", "notifications", order_id=past.second)
    assert broken(past) == {"I3", "I5"}


def test_a_doubled_notification_breaks_i3(past: Story) -> None:
    note = past.row("notification", "notifications", order_id=past.second)
    past.add("notification", "notifications", **note | {"id": past.new_id()})
    assert broken(past) == {"I3"}


def test_a_notification_of_no_outcome_breaks_i3(past: Story) -> None:
    note = past.row("notification", "notifications", order_id=past.second)
    past.add("notification", "notifications", **note | {"id": past.new_id(), "order_id": past.new_id()})
    assert broken(past) == {"I3", "I5"}


def test_a_notification_that_is_sent_twice_breaks_i3(past: Story) -> None:
    past.mail(past.row("notification", "notifications", order_id=past.second)["id"])
    assert broken(past) == {"I3"}


def test_a_notification_both_sent_and_failed_breaks_i3(past: Story) -> None:
    note = past.row("notification", "notifications", order_id=past.second)
    past.mail(note["id"], delivered=False)
    past.mail(note["id"])
    assert broken(past) == {"I3"}


def test_a_notification_without_an_end_breaks_i3(past: Story) -> None:
    note = past.row("notification", "notifications", order_id=past.second)
    sent = past.find("NotificationSent", order_id=past.second)
    past.put(sent, with_header(sent, "ce_type", "SomethingElse"))
    note |= {"status": "pending", "sent_at": None}
    past.row("notification", "keys", key=past.ada)["sequence"] -= 1
    assert broken(past) == {"I3", "I7"}


def test_a_notification_that_failed_needs_no_mail(past: Story) -> None:
    for row in past.tables["notification"]["notifications"]:
        sent = past.find("NotificationSent", order_id=row["order_id"])
        past.put(
            sent,
            with_header(
                with_header(sent, "ce_type", "NotificationFailed"),
                "ce_dataschema",
                "urn:choreo:NotificationFailed:1",
            ),
        )
        row |= {"status": "failed", "sent_at": None}
    past.mails.clear()
    assert broken(past) == set()


def test_an_end_of_another_notification_breaks_i3(past: Story) -> None:
    sent = past.find("NotificationSent", order_id=past.second)
    past.put(sent, with_data(sent, notification_id=past.new_id()))
    assert broken(past) == {"I3"}


def test_a_missing_mail_breaks_i3(past: Story) -> None:
    past.mails.pop()
    assert broken(past) == {"I3"}


def test_a_mail_of_no_notification_breaks_i3(past: Story) -> None:
    past.mails.append((f"<{past.new_id()}@choreo.invalid>", "Ada@Example.org"))
    assert broken(past) == {"I3"}


def test_a_mail_with_another_message_id_breaks_i3(past: Story) -> None:
    """Sent twice, under ids that no reader could recognise as the same."""
    past.mails.append((past.mails[0][0].replace("@", ".2@"), past.mails[0][1]))
    assert broken(past) == {"I3"}


def test_a_mail_to_somebody_else_breaks_i3(past: Story) -> None:
    past.mails.append((past.mails.pop()[0], "bob@example.org"))
    assert broken(past) == {"I3"}


def test_a_mail_that_came_twice_is_counted_and_allowed(past: Story) -> None:
    past.mails.append(past.mails[0])
    assert broken(past) == set()
    assert repeats(past.history()).mails == 1


# I4


def test_an_overdraft_breaks_i4_however_well_it_adds_up(past: Story) -> None:
    past.confirm(past.place(past.ada, 100_01, "third"))
    assert broken(past) == {"I4"}
    assert len(judge(past.history())) == 4, "the account, both legs, the fact"


def test_a_negative_balance_in_a_rejection_breaks_i4(past: Story) -> None:
    rejected = past.find("PaymentRejected")
    past.put(rejected, with_data(rejected, balance=-1))
    assert "I4" in broken(past)


# I5


@pytest.mark.parametrize(
    ("service", "table", "column", "value"),
    [
        ("user", "users", "login", "Bob"),
        ("user", "users", "login_key", "Ada"),
        ("user", "users", "email", "bob@example.org"),
        ("user", "users", "email_key", "Ada@Example.org"),
        ("user", "users", "created_at", None),
        ("user", "users", "step", 7),
        ("user", "signing_keys", "public_jwk", {}),
        ("order", "signing_keys", "not_after", None),
        ("order", "orders", "user_id", "nobody"),
        ("order", "orders", "price", 1),
        ("order", "orders", "description", None),
        ("order", "orders", "created_at", None),
        ("order", "orders", "updated_at", None),
        ("order", "orders", "decide_by", None),
        ("order", "orders", "step", 7),
        ("order", "orders", "event_id", None),
        ("order", "orders", "correlation_id", None),
        ("order", "orders", "trace_id", None),
        ("order", "orders", "payment", "undecided"),
        ("order", "orders", "rejection_reason", "order_cancelled"),
        ("order", "orders", "cancel_reason", "expired"),
        ("order", "orders", "refunded", True),
        ("order", "orders", "status", "cancelled"),
        ("order", "orders", "reason", "by_user"),
        ("billing", "accounts", "id", "nothing"),
        ("billing", "accounts", "currency", "USD"),
        ("billing", "accounts", "created_at", None),
        ("billing", "payments", "user_id", "nobody"),
        ("billing", "payments", "amount", 1),
        ("billing", "payments", "outcome", "lost"),
        ("billing", "payments", "step", 7),
        ("billing", "payments", "event_id", None),
        ("billing", "payments", "correlation_id", None),
        ("billing", "payments", "trace_id", None),
        ("billing", "ledger", "kind", "gift"),
        ("billing", "ledger", "balance", 1),
        ("billing", "ledger", "order_id", "nothing"),
        ("billing", "ledger", "at", None),
        ("billing", "ledger", "step", 7),
        ("notification", "recipients", "login", "Bob"),
        ("notification", "recipients", "email", "bob@example.org"),
        ("notification", "notifications", "subject", "Hello"),
        ("notification", "notifications", "text", "Hello"),
        ("notification", "notifications", "channel", "pigeon"),
        ("notification", "notifications", "status", "failed"),
        ("notification", "notifications", "created_at", None),
        ("notification", "notifications", "sent_at", None),
        ("notification", "notifications", "step", 7),
        ("notification", "notifications", "event_id", None),
        ("notification", "notifications", "correlation_id", None),
        ("notification", "notifications", "trace_id", None),
    ],
)
def test_a_column_that_does_not_follow_from_the_log_breaks_i5(
    past: Story, service: str, table: str, column: str, value: object
) -> None:
    past.tables[service][table][0][column] = value
    assert broken(past) == {"I5"}


def test_a_notification_that_says_it_follows_from_something_else_breaks_i5(past: Story) -> None:
    created = header(past.find("OrderCreated", order_id=past.second), "ce_id")
    past.row("notification", "notifications", order_id=past.second)["event_id"] = created
    assert broken(past) == {"I5"}


TABLES = [
    ("user", "users"),
    ("order", "orders"),
    ("billing", "accounts"),
    ("billing", "payments"),
    ("notification", "recipients"),
    *((service, "signing_keys") for service in SERVICES),
]


@pytest.mark.parametrize(("service", "table"), TABLES)
def test_a_row_that_is_missing_breaks_i5(past: Story, service: str, table: str) -> None:
    del past.tables[service][table][0]
    assert broken(past) == {"I5"}


@pytest.mark.parametrize(
    ("service", "table", "id"),
    [
        ("user", "users", "id"),
        ("order", "orders", "id"),
        ("billing", "payments", "order_id"),
        ("notification", "recipients", "user_id"),
        *((service, "signing_keys", "kid") for service in SERVICES),
    ],
)
def test_a_row_too_many_breaks_i5(past: Story, service: str, table: str, id: str) -> None:
    past.tables[service][table].append(past.tables[service][table][0] | {id: past.new_id()})
    assert broken(past) == {"I5"}


@pytest.mark.parametrize("service", ["user", "order", "billing", "notification"])
def test_a_counter_ahead_of_the_last_fact_breaks_i5(past: Story, service: str) -> None:
    past.row(service, "keys", key=past.ada)["sequence"] += 1
    assert broken(past) == {"I5"}


def test_a_key_without_a_counter_breaks_i5(past: Story) -> None:
    past.remove("billing", "keys", key=past.ada)
    assert broken(past) == {"I5"}


def test_a_key_that_was_only_locked_has_no_fact(past: Story) -> None:
    past.add("user", "keys", key="login:eve", sequence=0)
    assert broken(past) == set()


# I6

KINDS = ["register", "deposit", "order", "cancel"]


@pytest.fixture
def full(past: Story) -> Story:
    """With a request of every kind."""
    past.cancel(past.first)
    past.refund(past.first)
    return past


@pytest.mark.parametrize("kind", KINDS)
def test_an_answered_request_that_is_in_no_topic_breaks_i6(full: Story, kind: str) -> None:
    lost = next(request for request in full.requests if request.kind == kind)
    full.requests.append(replace(lost, marker="lost", amount=1, id=full.new_id()))
    assert broken(full) == {"I6"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_named_another_id_breaks_i6(full: Story, kind: str) -> None:
    next(request for request in full.requests if request.kind == kind).id = full.new_id()
    assert broken(full) == {"I6"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_request_with_an_effect_breaks_i6(full: Story, kind: str) -> None:
    request = next(request for request in full.requests if request.kind == kind)
    request.outcome, request.id = "failed", None
    assert broken(full) == {"I6"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_of_unknown_end_may_have_its_effect(full: Story, kind: str) -> None:
    request = next(request for request in full.requests if request.kind == kind)
    request.outcome, request.id = "unknown", None
    assert broken(full) == set()


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_a_request_that_was_not_answered_may_have_no_effect(past: Story, outcome: str) -> None:
    asked = Request("order", "third", past.ada, 1_00, 0.0, outcome=outcome)  # type: ignore[arg-type]
    past.requests.append(asked)
    assert broken(past) == set()


TWICE: dict[str, Callable[[Story], object]] = {
    "register": lambda past: past.register("Ada"),
    "deposit": lambda past: past.deposit(past.ada, 400_00),
    "order": lambda past: past.order(past.ada, 300_00, "first"),
    "cancel": lambda past: past.cancel(past.first),
}


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
@pytest.mark.parametrize("kind", TWICE)
def test_a_request_with_two_effects_breaks_i6(full: Story, kind: str, outcome: str) -> None:
    TWICE[kind](full)
    full.requests.pop()
    request = next(request for request in full.requests if request.kind == kind)
    request.outcome = outcome  # type: ignore[assignment]
    assert broken(full) == {"I6"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fact_that_nobody_asked_for_breaks_i6(full: Story, kind: str) -> None:
    full.requests = [request for request in full.requests if request.kind != kind]
    assert broken(full) == {"I6"}


def test_an_order_without_a_description_is_known_by_its_id(past: Story) -> None:
    past.order(past.ada, 1, None)
    assert judge(past.history()) == []


def test_an_order_that_lost_its_description_is_none_of_ours(past: Story) -> None:
    created = past.find("OrderCreated", order_id=past.second)
    past.put(created, with_data(created, description=None))
    past.row("order", "orders", id=past.second)["description"] = None
    past.requests.pop()
    assert broken(past) == {"I6"}


def test_an_order_at_another_price_breaks_i6(past: Story) -> None:
    next(request for request in past.requests if request.marker == "second").amount = 200_01
    assert broken(past) == {"I6"}


def test_an_order_of_another_user_breaks_i6(past: Story) -> None:
    bob = past.register("Bob")
    next(request for request in past.requests if request.marker == "second").user_id = bob
    assert broken(past) == {"I6"}


# I7


def test_lag_breaks_i7(past: Story) -> None:
    past.tables["notification"]["positions"][-1]["next_offset"] -= 1
    assert broken(past) == {"I7"}


def test_a_partition_with_records_that_was_never_begun_breaks_i7(past: Story) -> None:
    end = past.ends["order-events", 0] or past.ends["order-events", 1]
    past.remove("billing", "positions", topic="order-events", next_offset=end)
    assert broken(past) == {"I7"}


def test_what_nobody_reads_is_no_lag(past: Story) -> None:
    assert any(end for (topic, _), end in past.ends.items() if topic == "notification-events")
    assert broken(past) == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_fact_left_in_the_outbox_breaks_i7(past: Story, service: str) -> None:
    past.add(service, "outbox", key=past.ada)
    assert broken(past) == {"I7"}


def test_a_payment_that_waits_breaks_i7(past: Story) -> None:
    past.row("billing", "payments", order_id=past.second)["outcome"] = "waiting"
    assert broken(past) == {"I5", "I7"}


def test_an_order_that_is_undecided_breaks_i7(past: Story) -> None:
    past.row("order", "orders", id=past.second)["status"] = "created"
    assert broken(past) == {"I5", "I7"}


def test_a_notification_that_is_pending_breaks_i7(past: Story) -> None:
    past.row("notification", "notifications", order_id=past.second)["status"] = "pending"
    assert broken(past) == {"I5", "I7"}


def test_records_that_were_not_shown_break_i7(past: Story) -> None:
    past.ends["order-events", 0] += 1
    past.tables["billing"]["positions"][2]["next_offset"] += 1
    assert broken(past) == {"I7"}


def test_a_partition_may_end_with_offsets_that_have_no_record(past: Story) -> None:
    """As behind a transaction: Kafka says that it was read to its end."""
    past.ends["order-events", 0] += 2
    past.tables["billing"]["positions"][2]["next_offset"] += 2
    end = past.ends["order-events", 0]
    assert judge(replace(past.history(), read={("order-events", 0): end})) == []
    assert judge(replace(past.history(), read={("order-events", 0): end - 1}))


GARBAGE: dict[str, Callable[[Record], Record]] = {
    "no value": lambda record: replace(record, value=None),
    "no JSON": lambda record: replace(record, value=b"\xff"),
    "nested without end": lambda record: replace(record, value=b"[" * 100_000),
    "no object": lambda record: replace(record, value=b"[]"),
    "another field": lambda record: with_data(record, colour="red"),
    "a price that is text": lambda record: with_data(record, price="1.00"),
    "a price of nothing": lambda record: with_data(record, price=0),
    "a price below zero": lambda record: with_data(record, price=-1),
    "a price that is true": lambda record: with_data(record, price=True),
    "a description that is a number": lambda record: with_data(record, description=1),
    "an id that is none": lambda record: with_data(record, order_id="third"),
    "an id that is a number": lambda record: with_data(record, order_id=1),
    "a time that is a number": lambda record: with_data(record, decide_by=1),
    "a time that is none": lambda record: with_data(record, decide_by="soon"),
    "a time without a zone": lambda record: with_data(record, decide_by="2030-01-01T00:00:00"),
    "no headers": lambda record: replace(record, headers=()),
    "a header twice": lambda record: replace(record, headers=record.headers * 2),
    "a header of nothing": lambda record: replace(record, headers=(*record.headers, ("extra", None))),
    "a header of bytes": lambda record: replace(record, headers=(*record.headers, ("extra", b"\xff"))),
    "another source": lambda record: with_header(record, "ce_source", "/billing"),
    "a version from the future": lambda record: with_header(
        record, "ce_dataschema", "urn:choreo:OrderCreated:2"
    ),
    "an id in the header that is none": lambda record: with_header(record, "ce_id", "1"),
    "a sequence that is none": lambda record: with_header(record, "ce_sequence", "1"),
    "a time in the header that is none": lambda record: with_header(record, "ce_time", "now"),
    "no trace": lambda record: with_header(record, "traceparent", "00"),
    "no Kafka key": lambda record: replace(record, key=None),
    "another key": lambda record: replace(record, key=b"nobody"),
    "half a surrogate pair": lambda record: with_data(record, user_id="\ud800"),
}


@pytest.mark.parametrize("garble", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_record_that_is_no_event_has_to_be_parked(past: Story, garble: Callable[[Record], Record]) -> None:
    record = with_header(past.find("OrderCreated", order_id=past.second), "ce_id", past.new_id())
    garbage = past.append(garble(record))
    assert broken(past) == {"I7"}
    past.park("billing", garbage, key="nobody", type=None)
    assert broken(past) == set()


def test_a_record_that_is_no_event_has_to_be_parked_by_all_who_read_its_topic(past: Story) -> None:
    garbage = past.append(replace(past.find("UserRegistered"), value=b"?"))
    past.park("billing", garbage, key=past.ada, type=None)
    past.park("order", garbage, key=past.ada, type=None)
    assert broken(past) == {"I7"}
    past.park("notification", garbage, key=past.ada, type=None)
    assert broken(past) == set()


def test_a_record_that_is_no_event_is_not_handled_where_nobody_reads(past: Story) -> None:
    past.append(replace(past.find("NotificationSent", order_id=past.first), value=b"?"))
    assert broken(past) == {"I7"}


def test_a_record_that_was_parked_and_dropped_is_handled(past: Story) -> None:
    garbage = past.append(replace(past.find("OrderCreated", order_id=past.first), value=b"?"))
    place = {"topic": garbage.topic, "partition": garbage.partition, "offset": garbage.offset}
    past.add(
        "billing", "journal", id=past.new_id(), key="x", kind="fact", type="", outcome="dropped", **place
    )
    assert broken(past) == set()


def test_a_fact_on_the_topic_of_another_service_is_no_event(past: Story) -> None:
    past.append(replace(past.find("UserRegistered"), topic="order-events"))
    assert broken(past) == {"I7"}


def test_a_record_of_an_event_that_a_service_could_not_read_is_ignored(past: Story) -> None:
    """Well formed to the judge, who knows no address from another; the services know better."""
    record = with_header(past.find("OrderCreated", order_id=past.second), "ce_id", past.new_id())
    past.park("billing", past.append(with_data(record, price=10**30)), key=past.ada, type=None)
    assert broken(past) == set()


# I8


def test_facts_published_out_of_order_break_i8(past: Story) -> None:
    first, second = (past.find("OrderCreated", order_id=id) for id in (past.first, past.second))
    past.put(first, replace(second, offset=first.offset))
    past.put(second, replace(first, offset=second.offset))
    assert broken(past) == {"I8"}


def test_a_sequence_used_twice_breaks_i8(past: Story) -> None:
    first, second = (past.find("OrderCreated", order_id=id) for id in (past.first, past.second))
    past.put(second, with_header(second, "ce_sequence", header(first, "ce_sequence")))
    past.row("order", "orders", id=past.second)["step"] = past.row("order", "orders", id=past.first)["step"]
    assert broken(past) == {"I8"}


def test_a_repeat_is_counted_and_allowed(past: Story) -> None:
    for record in tuple(past.records):
        past.append(record)
    assert broken(past) == set()
    assert repeats(past.history()).records == len(past.records) / 2


ALTERED: dict[str, Callable[[Record], Record]] = {
    "value": lambda record: replace(record, value=(record.value or b"") + b" "),
    "headers": lambda record: replace(record, headers=(*record.headers, ("extra", b"1"))),
    "order of headers": lambda record: replace(record, headers=record.headers[::-1]),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED.keys())
def test_a_repeat_with_other_bytes_breaks_i8(past: Story, alter: Callable[[Record], Record]) -> None:
    past.append(alter(past.find("OrderCreated", order_id=past.second)))
    assert broken(past) == {"I8"}


def test_a_key_in_two_partitions_breaks_i8(past: Story) -> None:
    created = past.find("OrderCreated", order_id=past.second)
    past.append(replace(created, partition=1 - created.partition))
    assert broken(past) == {"I8"}


def test_an_event_that_was_not_applied_breaks_i8(past: Story) -> None:
    past.remove("order", "journal", type="PaymentRejected")
    past.row("order", "keys", key=past.ada)["sequence"] -= 1
    assert broken(past) == {"I8"}


def test_an_event_applied_twice_breaks_i8(past: Story) -> None:
    row = past.row("order", "journal", type="PaymentRejected")
    past.add("order", "journal", **row | {"step": past.next_step("order", past.ada)})
    assert broken(past) == {"I8"}


def test_an_event_applied_by_who_does_not_hear_it_breaks_i8(past: Story) -> None:
    deposited = past.find("MoneyDeposited")
    past.apply("order", header(deposited, "ce_id"), past.ada, "MoneyDeposited", deposited)
    assert broken(past) == {"I8"}


def test_a_refused_command_is_no_event(past: Story) -> None:
    past.add("billing", "journal", id=past.new_id(), key=past.ada, kind="command", outcome="applied")
    assert broken(past) == set()


def test_an_applied_event_that_is_gone_from_its_topic_breaks_i8(past: Story) -> None:
    """What Kafka acknowledged and lost."""
    lost = past.find("PaymentRejected")
    past.put(lost, with_header(lost, "ce_type", "SomethingElse"))
    assert broken(past) == {"I2", "I3", "I5", "I8"}


def test_facts_applied_in_another_order_than_decided_break_i8(past: Story) -> None:
    first, second = (
        past.row("order", "journal", type=type) for type in ("PaymentConfirmed", "PaymentRejected")
    )
    first["step"], second["step"] = second["step"], first["step"]
    assert broken(past) == {"I8"}


def test_a_step_that_two_facts_took_breaks_i8(past: Story) -> None:
    """Its own fact and one it heard: somebody did not hold the lock of the key."""
    heard = past.row("order", "journal", type="PaymentConfirmed")
    heard["step"] = past.row("order", "orders", id=past.first)["step"]
    assert broken(past) == {"I8"}


# Parked keys


def test_what_is_parked_is_not_missed_anywhere(past: Story) -> None:
    """Billing could not apply the third order, and nothing followed from it."""
    past.place(past.ada, 1_00, "third")
    third = past.find("OrderCreated", price=1_00)
    past.tables["billing"]["payments"].pop()
    past.tables["billing"]["journal"].pop()
    past.row("billing", "keys", key=past.ada)["sequence"] -= 1
    assert broken(past) == {"I2", "I5", "I7", "I8"}
    past.park("billing", third, key=past.ada, type="OrderCreated")
    assert broken(past) == set()


def test_an_outcome_that_is_parked_is_not_missed_by_who_would_tell_it(past: Story) -> None:
    rejected = past.find("PaymentRejected")
    past.remove("notification", "notifications", order_id=past.second)
    past.remove("notification", "journal", type="PaymentRejected")
    sent = past.find("NotificationSent", order_id=past.second)
    past.put(sent, with_header(sent, "ce_type", "SomethingElse"))
    past.row("notification", "keys", key=past.ada)["sequence"] -= 2
    past.mails.pop()
    assert broken(past) == {"I3", "I5", "I8"}
    past.park("notification", rejected, key=past.ada, type="PaymentRejected")
    assert broken(past) == set()


def test_an_event_that_was_dropped_is_not_missed(past: Story) -> None:
    dropped = past.row("order", "journal", type="PaymentRejected")
    dropped["outcome"] = "dropped"
    past.row("order", "keys", key=past.ada)["sequence"] -= 1
    assert broken(past) == set()


def test_the_rows_of_a_parked_key_are_not_compared_and_those_of_others_are(past: Story) -> None:
    bob = past.register("Bob")
    past.park("order", past.find("PaymentRejected"), key=past.ada, type="PaymentRejected")
    past.row("user", "users", id=past.ada)["login"] = "Eve"
    past.add("billing", "payments", **past.tables["billing"]["payments"][0] | {"order_id": past.new_id()})
    assert broken(past) == set()
    past.row("user", "users", id=bob)["login"] = "Eve"
    assert broken(past) == {"I5"}


def test_what_must_not_happen_must_not_happen_to_a_parked_key(past: Story) -> None:
    past.park("order", past.find("PaymentRejected"), key=past.ada, type="PaymentRejected")
    past.reject(past.first)
    past.tables["billing"]["ledger"][0]["balance"] = -1
    assert broken(past) == {"I2", "I4"}


def test_times_are_compared_and_not_their_writing(past: Story) -> None:
    created = past.find("OrderCreated", order_id=past.second)
    time = past.row("order", "orders", id=past.second)["created_at"]
    east = time.astimezone(timezone(timedelta(hours=2)))
    past.put(created, with_header(created, "ce_time", east.isoformat()))
    assert broken(past) == set()
