"""What is told of the way of an event, given what journals and Kafka have written down. Milliseconds."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from choreo.message.envelope import derived_id
from choreo.replay.trace.hops import Hearing, Hop, Origin, Way, ways
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent
from tests.unit.spec import START

FLOW = derived_id("flow")
ORDERS, PAYMENTS, USERS = ("order-events", 3), ("billing-events", 3), ("user-events", 3)


def at(ms: float) -> datetime:
    return START + timedelta(milliseconds=ms)


def event(
    type: str,
    source: str,
    place: tuple[str, int],
    offset: int,
    *,
    decided: float,
    appended: float | None,
    sequence: int,
    cause: PublishedEvent | None = None,
) -> PublishedEvent:
    return PublishedEvent(
        id=derived_id(type, source, sequence),
        type=type,
        source=source,
        key="ada",
        sequence=sequence,
        topic=place[0],
        partition=place[1],
        offset=offset,
        flow=FLOW,
        cause=cause.id if cause else None,
        at=at(decided),
        appended_at=None if appended is None else at(appended),
        data={},
    )


def command(
    type: str, *, step: int, received: float, decided: float, committed: float | None, id: UUID = FLOW
) -> JournalRow:
    return JournalRow(
        id=id,
        key="ada",
        step=step,
        kind="command",
        type=type,
        topic=None,
        partition=None,
        offset=None,
        outcome="applied",
        received_at=at(received),
        decided_at=at(decided),
        committed_at=None if committed is None else at(committed),
    )


def fact(
    heard: PublishedEvent,
    *,
    step: int,
    received: float | None,
    decided: float,
    committed: float | None,
    outcome: str = "applied",
) -> JournalRow:
    return JournalRow(
        id=heard.id,
        key=heard.key,
        step=step,
        kind="fact",
        type=heard.type,
        topic=heard.topic,
        partition=heard.partition,
        offset=heard.offset,
        outcome=outcome,
        received_at=None if received is None else at(received),
        decided_at=at(decided),
        committed_at=None if committed is None else at(committed),
    )


ORDERED = event("OrderCreated", "order", ORDERS, 17, decided=2.5, appended=6, sequence=1)
PAID = event(
    "PaymentConfirmed", "billing", PAYMENTS, 9, decided=10.25, appended=14, sequence=4, cause=ORDERED
)
ASKED = command("PlaceOrder", step=0, received=2, decided=2.5, committed=4)
HEARD = fact(ORDERED, step=3, received=9.5, decided=10.25, committed=12)
ORDER = Journal([ASKED], {PAYMENTS: 9})
BILLING = Journal([HEARD], {USERS: 1, ORDERS: 18})


def told(hops: tuple[Hop, ...]) -> dict[str, float | None]:
    return {hop.name: hop.ms for hop in hops}


def only(*hearings: Hearing) -> Hearing:
    (hearing,) = hearings
    return hearing


def hearing_of(occurrence: PublishedEvent, billing: Journal) -> Hearing:
    return only(*ways([occurrence], {"billing": billing})[occurrence.id].hearings)


def test_from_the_request_to_the_next_service_every_hop_is_told() -> None:
    ordered = ways([ORDERED, PAID], {"order": ORDER, "billing": BILLING})[ORDERED.id]
    assert ordered.origin is not None
    assert (ordered.origin.service, ordered.origin.input) == ("order", "PlaceOrder")
    assert told(ordered.origin.hops) == {"queue": 0.5, "transaction": 1.5, "outbox": 2}

    heard = only(*ordered.hearings)
    assert (heard.service, heard.offset, heard.outcome) == ("billing", 17, "applied")
    assert told(heard.hops) == {"broker": 4, "consumer": 0.75, "transaction": 1.75}
    assert heard.leads_to == ("PaymentConfirmed",)


def test_what_is_told_at_the_event_it_follows_from_is_not_told_again() -> None:
    paid = ways([ORDERED, PAID], {"order": ORDER, "billing": BILLING})[PAID.id]
    assert paid.origin == Origin("billing", "OrderCreated", (Hop("outbox", 2),))
    assert paid.hearings == (Hearing("order", 9, "unread"),)


def test_a_delay_is_never_negative() -> None:
    """Kafka's time is cut to the millisecond, so it may lie before a commit that came first."""
    early = replace(ORDERED, appended_at=at(3))
    way = ways([early], {"order": ORDER})[early.id]
    assert way.origin is not None
    assert told(way.origin.hops)["outbox"] == 0


def test_a_hop_is_unknown_where_a_time_of_it_is_not_kept() -> None:
    elsewhere = replace(ORDERED, appended_at=None)
    order = Journal([replace(ASKED, committed_at=None)])
    billing = replace(BILLING, entries=[replace(HEARD, received_at=None, committed_at=None)])
    way = ways([elsewhere], {"order": order, "billing": billing})[elsewhere.id]
    assert way.origin is not None
    assert told(way.origin.hops) == {"queue": 0.5, "transaction": None, "outbox": None}
    assert told(only(*way.hearings).hops) == {"broker": None, "consumer": None, "transaction": None}


def test_without_its_input_an_event_has_an_origin_all_the_same() -> None:
    way = ways([ORDERED], {"order": Journal()})[ORDERED.id]
    assert way.origin == Origin("order", None, (Hop("transaction", None), Hop("outbox", None)))


def test_without_journals_nothing_is_told() -> None:
    assert ways([ORDERED], {}) == {ORDERED.id: Way(ORDERED, None, ())}


def test_a_payment_that_waited_was_decided_when_the_account_came() -> None:
    registered = event("UserRegistered", "user", USERS, 0, decided=90, appended=96, sequence=1)
    opened = event(
        "AccountCreated", "billing", PAYMENTS, 9, decided=100, appended=105, sequence=3, cause=registered
    )
    paid = event(
        "PaymentRejected", "billing", PAYMENTS, 10, decided=100, appended=105, sequence=4, cause=ORDERED
    )
    billing = replace(
        BILLING,
        entries=[
            fact(ORDERED, step=1, received=9.5, decided=10.25, committed=12),
            fact(registered, step=2, received=98, decided=100, committed=103),
        ],
    )
    told_of = ways([ORDERED, registered, opened, paid], {"billing": billing})
    assert told_of[ORDERED.id].hearings[0].leads_to == ()
    assert told_of[registered.id].hearings[0].leads_to == ("AccountCreated", "PaymentRejected")

    origin = told_of[paid.id].origin
    assert origin is not None and origin.input == "UserRegistered"
    assert told(origin.hops) == {"waited": 86, "consumer": 2, "transaction": 3, "outbox": 2}


def test_while_it_waits_that_is_what_is_told() -> None:
    waiting = replace(BILLING, waiting=frozenset({ORDERED.id}))
    assert hearing_of(ORDERED, waiting).outcome == "waiting"


def test_what_the_mail_server_answered_is_a_command_that_was_waited_for() -> None:
    sent = event(
        "NotificationSent", "notification", ("n", 0), 0, decided=50, appended=55, sequence=3, cause=PAID
    )
    delivery = command(
        "RecordDelivery", step=2, received=48, decided=50, committed=53, id=derived_id("delivery")
    )
    notification = Journal([fact(PAID, step=2, received=15, decided=16, committed=18), delivery])
    origin = ways([PAID, sent], {"notification": notification})[sent.id].origin
    assert origin is not None and origin.input == "RecordDelivery"
    assert told(origin.hops) == {"waited": 30, "queue": 2, "transaction": 3, "outbox": 2}


def test_of_two_inputs_in_one_transaction_each_has_what_it_decided() -> None:
    """Both are of one user and of one moment: the steps tell them apart."""
    other = event("OrderCreated", "order", ORDERS, 18, decided=2.5, appended=6, sequence=2)
    both = [
        ASKED,
        command("PlaceOrder", step=1, received=1, decided=2.5, committed=4, id=derived_id("other")),
    ]
    found = ways([ORDERED, other], {"order": Journal(both)})
    queued = [told(way.origin.hops)["queue"] for way in found.values() if way.origin]
    assert queued == [0.5, 1.5]


def test_at_its_second_place_an_event_is_a_duplicate() -> None:
    again = replace(ORDERED, offset=19)
    billing = replace(BILLING, next_offsets={ORDERS: 20})
    hearings = ways([again, ORDERED], {"billing": billing})[ORDERED.id].hearings
    assert [(hearing.offset, hearing.outcome) for hearing in hearings] == [(17, "applied"), (19, "duplicate")]
    assert hearings[1].hops == ()


def test_a_service_may_not_have_read_it_yet() -> None:
    assert hearing_of(ORDERED, Journal([], {ORDERS: 17})).outcome == "unread"


def test_what_a_service_read_and_did_not_journal_it_does_not_hear() -> None:
    assert hearing_of(ORDERED, Journal([], {ORDERS: 18})).outcome == "skipped"


def test_nor_does_it_hear_what_lies_on_a_topic_it_does_not_read() -> None:
    assert hearing_of(ORDERED, Journal([], {USERS: 18})).outcome == "skipped"


def test_parked_and_queued_are_told_with_the_transaction_that_did_it() -> None:
    for outcome in ("parked", "queued"):
        heard = hearing_of(ORDERED, replace(BILLING, entries=[replace(HEARD, outcome=outcome)]))
        assert heard.outcome == outcome
        assert told(heard.hops) == {"broker": 4, "consumer": 0.75, "transaction": 1.75}


def test_what_was_given_up_later_tells_no_transaction() -> None:
    dropped = replace(BILLING, entries=[replace(HEARD, outcome="dropped", committed_at=at(90_000))])
    heard = hearing_of(ORDERED, dropped)
    assert (heard.outcome, told(heard.hops)) == ("dropped", {"broker": 4, "consumer": 0.75})
