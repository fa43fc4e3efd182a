"""What a trace tells, given journals and records: the tree, and in it what is missing and why."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.chassis.registry import follows, service_names
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider
from choreo.cli.debugging.trace_formats import as_json, as_mermaid, print_table, print_trees
from choreo.message.envelope import Event, derived_id
from choreo.message.fact import Fact
from choreo.operations.reading.flows import consumed_types
from choreo.replay.trace import trace
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent
from choreo.replay.trace.trace import Gap, Material, Tree, UnpublishedEvent, trees
from events.order import OrderCreated
from tests.unit.choreography import DECIDERS, READERS, Choreography
from tests.unit.test_choreography import spoilt, what_was_paid_is_not_given_back
from tests.unit.test_hops import FLOW, ORDERS, PAYMENTS, at, command, event, fact

HEARS = consumed_types(Settings())
TABLE = {of: follow for of, follow in follows().items() if of[0] in DECIDERS}
"""Of the services that are played here."""
PAID = ("PaymentConfirmed", "PaymentRejected")
MAILED = ("NotificationSent", "NotificationFailed")

ORDER = {"order_id": "1", "price": 30000, "description": "one violin", "decide_by": at(30_000).isoformat()}
ORDERED = replace(event("OrderCreated", "order", ORDERS, 17, decided=2, appended=6, sequence=1), data=ORDER)
CONFIRMED = replace(
    event("PaymentConfirmed", "billing", PAYMENTS, 9, decided=10, appended=14, sequence=4, cause=ORDERED),
    data={"order_id": "1"},
)
ASKED = replace(command("PlaceOrder", step=0, received=1, decided=2, committed=4), flow=FLOW, facts=1)


def heard(event: PublishedEvent, outcome: str = "applied", **told: Any) -> JournalRow:
    entry = fact(event, step=3, received=9, decided=10, committed=12, outcome=outcome)
    return replace(entry, flow=event.flow, **told)


def material(*events: PublishedEvent, now: float = 1000, **journals: Journal) -> Material:
    """What is not given as a journal has handled all it heard."""
    paid = [event for event in events if event.topic == PAYMENTS[0]]
    order = Journal([ASKED, *(heard(event) for event in paid)], {PAYMENTS: 10})
    known = {"order": order, **journals}
    return Material(
        flows={event.flow for event in events} | {FLOW}, events=events, journals=known, now=at(now)
    )


def only_tree(material: Material) -> Tree:
    (tree,) = trees(material, HEARS)
    return tree


def gaps(found: Iterable[Tree]) -> list[Gap]:
    return [
        gap
        for tree in found
        for gap in (*tree.gaps, *(gap for _, node in tree.everything() for gap in node.gaps))
    ]


def the_gap(of: Material) -> Gap:
    (gap,) = gaps(trees(of, HEARS))
    return gap


def test_what_followed_hangs_below_what_it_followed_from() -> None:
    tree = only_tree(material(CONFIRMED, ORDERED, billing=Journal([heard(ORDERED)], {ORDERS: 18})))
    assert (tree.service, tree.asked, tree.began_at) == ("order", ASKED, at(1))
    assert [(depth, node.way.event, node.after_ms) for depth, node in tree.everything()] == [
        (0, ORDERED, 1),
        (1, CONFIRMED, 9),
    ]


def test_only_those_who_hear_an_event_are_told_of() -> None:
    """Notification reads billing's topic too, and a deposit is nothing to it."""
    deposit = event("MoneyDeposited", "billing", PAYMENTS, 9, decided=2, appended=6, sequence=1)
    ((_, node),) = only_tree(material(deposit, notification=Journal([], {PAYMENTS: 9}))).everything()
    assert (node.way.hearings, node.gaps) == ((), ())


@pytest.mark.parametrize(
    ("journal", "state", "says"),
    [
        (Journal([], {ORDERS: 17}), "unread", "not heard yet"),
        (Journal([], {ORDERS: 18}), "lost", "read past, and nothing is in its journal"),
        (
            Journal([heard(ORDERED)], {ORDERS: 18}, frozenset({ORDERED.id})),
            "waiting",
            "waits for the account",
        ),
        (
            Journal(
                [heard(ORDERED, "parked", error="KeyError: 'x'", source_line="evolve.py:7")], {ORDERS: 18}
            ),
            "parked",
            "KeyError: 'x' (evolve.py:7)",
        ),
        (
            Journal([heard(ORDERED, "queued", error="behind OrderCreated: KeyError: 'x'")], {ORDERS: 18}),
            "queued",
            "behind OrderCreated: KeyError: 'x'",
        ),
        (Journal([heard(ORDERED, "dropped")], {ORDERS: 18}), "dropped", "given up by a person"),
        (Journal([heard(ORDERED)], {ORDERS: 18}), "undecided", "nothing was decided"),
    ],
)
def test_why_an_order_has_no_outcome_is_told_where_it_would_have_been(
    journal: Journal, state: str, says: str
) -> None:
    gap = the_gap(material(ORDERED, billing=journal))
    assert (gap.service, gap.expects, gap.state, gap.says) == ("billing", PAID, state, says)
    assert (gap.since_ms, gap.overdue_ms) == (998, None)


def test_of_an_event_that_lies_twice_what_is_missing_is_told_once() -> None:
    billing = Journal([heard(ORDERED)], {ORDERS: 20}, frozenset({ORDERED.id}))
    told = material(ORDERED, replace(ORDERED, offset=19), billing=billing)
    assert the_gap(told).state == "waiting"
    ((_, node),) = only_tree(told).everything()
    assert [hearing.outcome for hearing in node.way.hearings] == ["waiting", "duplicate"]


def test_an_order_that_nobody_decided_in_time_is_overdue() -> None:
    gap = the_gap(material(ORDERED, now=30_250, billing=Journal([], {ORDERS: 17})))
    assert gap.overdue_ms == 250


def test_a_confirmed_payment_lacks_its_mail_until_that_is_sent() -> None:
    notification = Journal([heard(CONFIRMED)], {PAYMENTS: 10})
    billing = Journal([heard(ORDERED)], {ORDERS: 18})
    without = material(ORDERED, CONFIRMED, billing=billing, notification=notification)
    gap = the_gap(without)
    assert (gap.service, gap.expects, gap.state) == ("notification", MAILED, "unsent")

    waits = replace(notification, waiting=frozenset({CONFIRMED.id}))
    gap = the_gap(material(ORDERED, CONFIRMED, billing=billing, notification=waits))
    assert (gap.state, gap.says) == ("waiting", "waits for the user's address")

    sent = event(
        "NotificationSent", "notification", ("n", 0), 0, decided=50, appended=55, sequence=3, cause=CONFIRMED
    )
    assert gaps(trees(replace(without, events=(ORDERED, CONFIRMED, sent)), HEARS)) == []


def test_where_nothing_has_to_follow_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may say so of a fact by what is in it."""
    (told,) = (one for one in follows().values() if one.heard is OrderCreated)
    follow = replace(told, must=lambda data: data["price"] >= 100)
    monkeypatch.setattr(trace, "follows", lambda: {("billing", "OrderCreated"): follow})
    billing = Journal([heard(ORDERED)], {ORDERS: 18})
    for price, missing in ((99, 0), (100, 1)):
        ordered = replace(ORDERED, data={**ORDER, "price": price})
        assert len(gaps(trees(material(ordered, billing=billing), HEARS))) == missing


def test_a_cancelled_order_that_was_paid_lacks_its_refund_and_one_that_was_not_lacks_nothing() -> None:
    cancelled = replace(
        event("OrderCancelled", "order", ORDERS, 18, decided=80, appended=85, sequence=2),
        flow=derived_id("cancel"),
        data={"order_id": "1"},
    )
    billing = Journal([heard(ORDERED), heard(cancelled)], {ORDERS: 19})
    gap = the_gap(material(ORDERED, CONFIRMED, cancelled, billing=billing))
    assert (gap.service, gap.expects, gap.state) == ("billing", ("PaymentRefunded",), "undecided")

    rejected = replace(CONFIRMED, type="PaymentRejected")
    assert gaps(trees(material(ORDERED, rejected, cancelled, billing=billing), HEARS)) == []


def test_what_is_decided_and_not_in_kafka_yet_is_told_as_that() -> None:
    fact = UnpublishedEvent(
        type="PaymentRejected",
        source="billing",
        key="ada",
        sequence=4,
        flow=FLOW,
        cause=ORDERED.id,
        data={"order_id": "1"},
    )
    billing = Journal([heard(ORDERED)], {ORDERS: 18})
    gap = the_gap(replace(material(ORDERED, billing=billing), unpublished=[fact]))
    assert (gap.service, gap.expects, gap.state) == ("billing", ("PaymentRejected",), "unpublished")

    first = replace(fact, type="OrderCreated", source="order", cause=None)
    assert [gap.expects for gap in only_tree(replace(material(), unpublished=[first])).gaps] == [
        ("OrderCreated",)
    ]


def test_what_was_decided_and_is_nowhere_is_lost() -> None:
    billing = Journal([heard(ORDERED)], {ORDERS: 18})
    gap = the_gap(replace(material(ORDERED, billing=billing), lost={ORDERED.id}))
    assert (gap.service, gap.state) == ("billing", "lost")
    assert [gap.state for gap in only_tree(replace(material(), lost={ASKED.id})).gaps] == ["lost"]


def test_a_parked_event_is_told_of_even_where_nothing_follows_from_it() -> None:
    order = Journal([ASKED, heard(CONFIRMED, "parked", error="a bug")], {PAYMENTS: 10})
    gap = the_gap(material(ORDERED, CONFIRMED, order=order))
    assert (gap.service, gap.expects, gap.state, gap.says) == ("order", (), "parked", "a bug")


def test_a_refused_request_is_a_tree_without_events() -> None:
    refused = replace(ASKED, outcome="refused", refusal={"type": "InsufficientFunds", "balance": 5})
    tree = only_tree(replace(material(), journals={"billing": Journal([refused])}))
    assert (tree.service, tree.asked, tree.nodes) == ("billing", refused, ())


# What must follow is a table. The services' own functions say whether it is right.


def told_by(shop: Choreography) -> Material:
    """What topics and journals would hold, all of it handled."""

    def seen(event: Event[Fact], topic: str, offset: int) -> PublishedEvent:
        return PublishedEvent(
            event.id,
            event.type,
            topic,
            event.key,
            event.sequence,
            topic,
            0,
            offset,
            event.correlation_id,
            event.causation_id,
            event.time,
            event.time,
            event.data.model_dump(mode="json"),
        )

    topics = {
        name: [seen(event, name, offset) for offset, event in enumerate(records)]
        for name, records in shop.topics.items()
    }
    journals = {}
    for service in shop.services:
        heard_here = [topic for reader, topic in READERS if reader == service]
        first = {event.id: event for topic in heard_here for event in reversed(topics[topic])}
        journals[service] = Journal(
            [heard(event) for event in first.values() if event.type in HEARS[service]],
            {(topic, 0): len(topics[topic]) for topic in heard_here},
        )
    events = [event for records in topics.values() for event in records]
    flows = {event.flow for event in events}
    return Material(flows=flows, events=events, journals=journals, now=shop.now)


def played(script: Sequence[tuple[str, int]], deciders: dict[str, Decider[Any]] = DECIDERS) -> Choreography:
    shop = Choreography(deciders)
    for what, number in script:
        match what:
            case "order":
                shop.place(price=number)
            case "deposit":
                shop.deposit(number)
            case "cancel" if shop.orders:
                shop.cancel(number)
            case "register":
                shop.register()
            case "travel":
                for reader, topic in READERS[number % len(READERS) :]:
                    shop.publish(topic)
                    shop.deliver(reader, topic)
        shop.seconds += 1
    shop.settle()
    return shop


acts = st.sampled_from(["register", "deposit", "order", "cancel", "travel", "travel"])
scripts = st.lists(st.tuples(acts, st.integers(1, 4)))
TRAVELS = [("travel", 0)] * 3
PAYS = [("register", 0), *TRAVELS, ("deposit", 4), ("order", 3), *TRAVELS]
STORY = [*PAYS, ("cancel", 0), ("order", 9), *TRAVELS]
"""With everything in it that the table is about."""


@given(scripts)
@settings(max_examples=200, deadline=None)
def test_once_nothing_is_on_its_way_nothing_is_missing(script: list[tuple[str, int]]) -> None:
    assert gaps(trees(told_by(played(script)), HEARS)) == []


def test_whatever_follows_from_what_another_service_decided_is_in_the_table() -> None:
    told = told_by(played(STORY))
    events = {event.id: event for event in told.events}
    links = {
        (event.source, events[event.cause].type, event.type)
        for event in told.events
        if event.cause in events and events[event.cause].source != event.source
    }
    assert {(service, type) for service, type, _ in links} == TABLE.keys()
    assert all(follow in TABLE[service, type].types for service, type, follow in links)


def test_each_line_of_the_table_is_needed_and_notices_what_is_not_there() -> None:
    """Whatever should follow is taken out."""
    told = told_by(played(STORY))
    types = {event.type for event in told.events}
    for (service, type), told_of in TABLE.items():
        follow = told_of.types
        assert type in types
        rest = [event for event in told.events if event.source != service or event.type not in follow]
        found = gaps(trees(replace(told, events=rest), HEARS))
        assert any(gap.service == service and set(gap.expects) <= set(follow) for gap in found), type


def test_a_refund_that_billing_forgot_is_missing() -> None:
    forgetful = spoilt("billing", what_was_paid_is_not_given_back)
    (gap,) = gaps(trees(told_by(played([*PAYS, ("cancel", 0)], forgetful)), HEARS))
    assert (gap.expects, gap.state) == (("PaymentRefunded",), "undecided")


# How it looks.

NASTY = 'end; <b>[red]"x": `%%{init}%%` #35;\nloop }'


def nasty() -> Tree:
    billing = Journal([heard(ORDERED, "parked", error=NASTY * 4, source_line="evolve.py:7")], {ORDERS: 18})
    return only_tree(material(ORDERED, CONFIRMED, billing=billing, notification=Journal([], {PAYMENTS: 9})))


@pytest.mark.parametrize("columns", [80, 100])
def test_text_fits_the_terminal_and_is_plain_where_nobody_looks(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for show in (print_trees, print_table):
        show([nasty()], 3)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= columns
        assert "\x1b" not in out
        assert out.startswith("3 older flows are left out")


def test_a_tree_shows_what_is_missing_below_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    print_trees([only_tree(material(ORDERED, billing=Journal([], {ORDERS: 17})))], 0)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("order PlaceOrder 2030-01-01T")
    assert lines[1:] == [
        f"flow {FLOW}",
        "key ada",
        "└─ OrderCreated price 30000, description one violin +1.0 ms",
        f"order-events[3]@17 {ORDERED.id}",
        "order decided queue 1.0 transaction 2.0 outbox 2",
        "billing unread it has not read as far as @17 yet",
        "└─ ? PaymentConfirmed or PaymentRejected",
        "billing unread for 998 ms: not heard yet",
        "",
    ]


def test_a_diagram_is_valid_whatever_is_in_it() -> None:
    first, *lines = as_mermaid([nasty()], 3).splitlines()
    assert first == "sequenceDiagram"
    names = f"(client|{'|'.join(service_names())})"
    text = r"([A-Za-z0-9 .,+_()\[\]@/-]|#[0-9]+;)+"
    statement = (
        rf" +(participant {names}|Note over {names}(,{names})?: {text}|{names}(->>|--x){names}: {text})"
    )
    assert [line for line in lines if not re.fullmatch(statement, line)] == []
    assert any("billing--x" in line or "order--xbilling" in line for line in lines)


def test_json_keeps_its_shape() -> None:
    told = json.loads(as_json("1", [nasty()], 3))
    assert set(told) == {"id", "left_out", "flows"}
    (flow,) = told["flows"]
    assert set(flow) == {"flow", "key", "began_at", "asked", "missing", "events", "journaled"}
    (ordered,) = flow["events"]
    assert {"id", "type", "topic", "partition", "offset", "after_ms", "decided", "heard"} <= set(ordered)
    assert [gap["state"] for gap in ordered["missing"]] == ["parked"]
    assert [event["type"] for event in ordered["followed_by"]] == ["PaymentConfirmed"]
