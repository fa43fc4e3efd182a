"""What is exported of a flow, given its journals and records: which spans, below which, from when to when."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from choreo.message.envelope import derived_id, event_id
from choreo.replay.trace.journals import Journal, JournalRow
from choreo.replay.trace.published_events import PublishedEvent
from choreo.replay.trace.spans import Kind, Span, id_of_event, spans_of
from choreo.replay.trace.trace import Material
from tests.unit.test_hops import FLOW, ORDERS, PAYMENTS, at, command, event, fact

SERVICES = ("user", "order", "billing", "notification")
GROUPS = {service: f"{service}-service" for service in SERVICES}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def cause(id: Any, *, is_event: bool = True, caller: str | None = None) -> dict[str, Any]:
    return {"id": str(id), "trace_id": TRACE, "is_event": is_event, "caller": caller}


def heard(of: PublishedEvent, **told: Any) -> JournalRow:
    row = fact(of, step=3, received=7, decided=8, committed=9)
    return replace(row, **{"flow": FLOW, **told})


ORDERED = event("OrderCreated", "order", ORDERS, 17, decided=2, appended=6, sequence=1)
ASKED = replace(
    command("PlaceOrder", step=0, received=1, decided=2, committed=4),
    flow=FLOW,
    status=202,
    cause=cause(FLOW, is_event=False, caller="b7ad6b7169203331-01"),
)


def told(
    events: Sequence[PublishedEvent] = (), kept: bool = True, **journals: Sequence[JournalRow]
) -> list[Span]:
    """With the request, and no more than that where nothing is given."""
    known = {name: Journal(rows) for name, rows in {"order": [ASKED], **journals}.items()}
    material = Material(flows={FLOW}, events=events, journals=known, now=at(1000), events_are_kept=kept)
    return spans_of(material, GROUPS, {"notification"})


def the(kind: Kind, spans: list[Span], service: str) -> Span:
    (found,) = (span for span in spans if (span.kind, span.service) == (kind, service))
    return found


def times(span: Span) -> tuple[datetime, datetime]:
    return span.begin, span.end


def test_a_request_is_below_its_caller_and_what_it_led_to_below_it() -> None:
    spans = told([ORDERED], billing=[heard(ORDERED)])
    request, send = the(Kind.REQUEST, spans, "order"), the(Kind.PUBLISH, spans, "order")
    decided, process = the(Kind.TRANSACTION, spans, "order"), the(Kind.PROCESS, spans, "billing")
    assert {span.trace.id for span in spans} == {TRACE}
    assert [request.parent, decided.parent, send.parent, process.parent] == [
        "b7ad6b7169203331",
        request.id,
        decided.id,
        send.id,
    ]
    assert [times(span) for span in (request, decided, send, process)] == [
        (at(1), at(4)),
        (at(2), at(4)),
        (at(4), at(6)),
        (at(7), at(9)),
    ]
    assert send.id == ORDERED.id.hex[:16], "what traceparent in the record says"
    assert (send.name, process.name) == ("send order-events", "process order-events")
    assert (process.link, process.attributes["messaging.consumer.group.name"]) == (send.id, "billing-service")
    assert process.attributes["messaging.kafka.offset"] == 17


def test_ids_are_those_of_what_happened_whoever_tells_them_and_of_nothing_else() -> None:
    spans = told([ORDERED], billing=[heard(ORDERED)], notification=[heard(ORDERED)])
    again = told([ORDERED], notification=[heard(ORDERED)], billing=[heard(ORDERED)])
    assert {span.id: span for span in spans} == {span.id: span for span in again}
    assert len({span.id for span in spans}) == len(spans)


def test_without_a_caller_the_request_is_the_root_of_a_trace_named_as_the_flow() -> None:
    asked = replace(ASKED, cause={**cause(FLOW, is_event=False), "trace_id": FLOW.hex})
    request = the(Kind.REQUEST, told(order=[asked]), "order")
    assert (request.parent, request.trace.id, request.trace.caller) == (None, FLOW.hex, None)
    older = {name: value for name, value in cause(FLOW, is_event=False).items() if name != "caller"}
    request = the(Kind.REQUEST, told(order=[replace(ASKED, cause=older)]), "order")
    assert (request.parent, request.trace.id) == (None, TRACE), "journaled before callers were kept"


def test_a_mail_goes_from_the_commit_to_the_servers_answer_and_a_timer_has_no_such_wait() -> None:
    row = command("RecordDelivery", step=3, received=50, decided=51, committed=52, id=derived_id("delivery"))
    row = replace(row, flow=FLOW, cause=cause(ORDERED.id))
    spans = told([ORDERED], notification=[heard(ORDERED), row])
    mail, process = the(Kind.MAIL, spans, "notification"), the(Kind.PROCESS, spans, "notification")
    assert (times(mail), mail.parent) == ((at(9), at(50)), process.id)
    recorded = next(span for span in spans if span.name == "transaction RecordDelivery")
    assert (recorded.parent, times(recorded)) == (mail.id, (at(51), at(52)))

    expired = replace(row, type="ExpireOrder")
    timer = the(Kind.TIMER, told([ORDERED], order=[ASKED, expired]), "order")
    assert (times(timer), timer.parent) == ((at(50), at(52)), id_of_event(ORDERED.id))


def test_what_was_decided_in_another_flows_transaction_is_below_its_cause_and_as_late_as_it_was() -> None:
    """An order that waited for its account is decided when billing hears of the registration."""
    paid = event(
        "PaymentConfirmed", "billing", PAYMENTS, 9, decided=80, appended=90, sequence=4, cause=ORDERED
    )
    account = event("UserRegistered", "user", ("user-events", 3), 1, decided=70, appended=75, sequence=1)
    came = replace(fact(account, step=3, received=79, decided=80, committed=85), flow=account.id)
    spans = told([ORDERED, paid], billing=[heard(ORDERED, step=2), came])
    waited = next(span for span in spans if span.name == "transaction OrderCreated")
    send = the(Kind.PUBLISH, spans, "billing")
    assert (send.parent, times(send)) == (waited.id, (at(85), at(90)))


def test_what_is_parked_is_an_error_and_when_it_is_tried_again_another_span() -> None:
    parked = heard(ORDERED, outcome="parked", error="KeyError: 'x'")
    failed = the(Kind.PROCESS, told([ORDERED], billing=[parked]), "billing")
    again = the(Kind.PROCESS, told([ORDERED], billing=[heard(ORDERED, decided_at=at(900))]), "billing")
    assert (failed.error, again.error) == ("KeyError: 'x'", None)
    assert failed.id != again.id
    dropped = heard(ORDERED, outcome="dropped", committed_at=at(10**9))
    given_up = the(Kind.PROCESS, told([ORDERED], billing=[dropped]), "billing")
    assert given_up.end == at(8), "that commit is of giving it up"


def test_a_refusal_is_no_error_of_the_service() -> None:
    refused = replace(ASKED, outcome="refused", refusal={"type": "AlreadyCancelled"}, status=409)
    spans = told(order=[refused])
    assert [span.error for span in spans] == [None, None]
    assert the(Kind.TRANSACTION, spans, "order").attributes["choreo.refusal"] == "AlreadyCancelled"
    assert the(Kind.REQUEST, spans, "order").attributes["http.response.status_code"] == 409


@pytest.mark.parametrize("committed", [None, 1.0])
def test_where_a_time_is_not_kept_or_a_clock_is_late_no_span_ends_before_it_begins(
    committed: float | None,
) -> None:
    asked = replace(ASKED, received_at=None, committed_at=None if committed is None else at(committed))
    early = replace(ORDERED, appended_at=at(0))
    for span in told([early], order=[asked], billing=[heard(early, committed_at=None, received_at=None)]):
        assert span.begin <= span.end


def test_a_call_is_below_the_decision_and_ends_with_the_first_who_has_it() -> None:
    """Where there is no Kafka, what an event followed from is found by its id, which is derived from that."""
    id = event_id("order", FLOW, "OrderCreated")
    called = replace(ORDERED, id=id)
    first = heard(called, topic="http:1", received_at=at(5))
    spans = told(kept=False, billing=[first], notification=[heard(called, topic="http:2")])
    tell = the(Kind.PUBLISH, spans, "order")
    assert (tell.name, times(tell)) == ("tell OrderCreated", (at(4), at(5)))
    assert tell.parent == the(Kind.TRANSACTION, spans, "order").id
    assert the(Kind.PROCESS, spans, "billing").parent == tell.id
    assert "messaging.system" not in the(Kind.PROCESS, spans, "billing").attributes
