"""Events as they are read from Kafka, and in which order they are told."""

from dataclasses import replace
from datetime import timedelta

from choreo.message.codec import Record, TopicRecord, encode
from choreo.message.envelope import Event, derived_id
from choreo.replay.trace.published_events import PublishedEvent, event_in, in_causal_order
from tests.unit import facts
from tests.unit.spec import START

APPENDED_MS = 1_791_000_000_123


def record() -> TopicRecord:
    id = derived_id("flow")
    data = facts.order_created()
    event = Event(id, "order", START, data.key, 5, id, None, id.hex, data)
    return TopicRecord("order-events", 3, 17, APPENDED_MS, True, encode(event))


def seen() -> PublishedEvent:
    event = event_in(record())
    assert event is not None
    return event


def test_an_event_carries_when_it_was_decided_and_when_kafka_took_it() -> None:
    event = seen()
    assert (event.source, event.key, event.sequence) == ("order", str(facts.ADA), 5)
    assert event.at == START
    assert event.appended_at is not None
    assert event.appended_at.timestamp() == APPENDED_MS / 1000


def test_a_time_the_writer_gave_is_not_taken_for_kafkas() -> None:
    event = event_in(replace(record(), appended=False))
    assert event is not None
    assert event.appended_at is None


def test_a_record_that_is_no_event_is_left_out() -> None:
    assert event_in(replace(record(), record=Record(b"key", b"\xff", []))) is None


def test_an_event_comes_after_the_one_it_follows_from_and_once() -> None:
    first = seen()
    then = replace(first, id=derived_id("then"), cause=first.id, at=START + timedelta(milliseconds=8))
    again = replace(first, offset=19)
    assert list(in_causal_order([then, again, first])) == [(0, first), (1, then)]


def test_of_one_transaction_the_first_decided_comes_first() -> None:
    first = seen()
    second = replace(first, id=derived_id("second"), sequence=6)
    assert [event for _, event in in_causal_order([second, first])] == [first, second]
