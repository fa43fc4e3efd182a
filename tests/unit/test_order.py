"""From Kafka alone every service can be made anew, whatever met whatever."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.rebuild.apply_order import Applied, Unordered, in_steps
from tests.unit.choreography import CONSUMED, DECIDERS, READERS, Choreography, Service

HEARERS = ["order", "billing", "notification"]
"""The user service hears nobody."""


def a_history(seed: int) -> Choreography:
    """Whatever can happen, in any order, until nothing is on its way. A record may be there again later."""
    random, shop = Random(seed), Choreography(DECIDERS)
    for _ in range(60):
        shop.seconds += 1
        match random.randrange(10):
            case 0 | 1:
                shop.place(random.randrange(1, 100))
            case 2:
                shop.deposit(random.randrange(1, 200)) if random.random() < 0.9 else shop.register()
            case 3:
                if shop.orders:
                    shop.cancel(random.randrange(10))
            case 4 | 5:
                shop.publish(random.choice(list(shop.services)))
            case 6 | 7:
                shop.deliver(*random.choice(READERS))
            case 8:
                shop.mail()
            case 9:
                shop.publish_again(random.choice(list(shop.topics)), random.randrange(10))
    shop.settle()
    return shop


def read_from_kafka(
    shop: Choreography, service: str
) -> tuple[list[Event[Fact]], dict[str, list[Event[Fact]]]]:
    """What the service decided, and by topic what it heard; each once."""
    topics = [topic for reader, topic in READERS if reader == service]
    heard = {
        topic: [event for event in shop.topics[topic] if type(event.data) in CONSUMED[service]]
        for topic in topics
    }
    return once(shop.topics[service]), {topic: once(events) for topic, events in heard.items()}


def once(events: list[Event[Fact]]) -> list[Event[Fact]]:
    return list({event.id: event for event in events}.values())


def ordered(shop: Choreography, service: str) -> list[Applied]:
    own, heard = read_from_kafka(shop, service)
    return in_steps(own, heard, shop.services[service].sequence)


def folded(live: Service, events: list[Event[Fact]]) -> Any:
    state = live.empty
    for event in events:
        state = live.decider.applied(state, event)
    return state


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("service", HEARERS)
def test_what_is_made_of_the_topics_is_what_the_service_has(seed: int, service: str) -> None:
    shop = a_history(seed)
    live = shop.services[service]
    state = folded(live, [one.event for one in ordered(shop, service)])
    if service == "notification":
        assert without_steps(state) == without_steps(live.state)
    else:
        assert state == live.state == live.rebuilt(), "down to the number of each step"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("service", HEARERS)
def test_every_fact_lies_where_it_is_said_to_lie_and_its_topic_is_in_order(seed: int, service: str) -> None:
    shop = a_history(seed)
    steps = {event.id: step for step, event in enumerate(shop.services[service].applied, start=1)}
    found = ordered(shop, service)
    assert [one.event.applied_sequence for one in found] == list(range(1, len(steps) + 1))
    for one in found:
        assert one.earliest <= steps[one.event.id] <= one.latest
        assert one.earliest <= one.event.applied_sequence <= one.latest
    for events in read_from_kafka(shop, service)[1].values():
        ids = [event.id for event in events]
        assert [one.event.id for one in found if one.event.id in ids] == ids


def test_where_one_topic_alone_is_heard_every_step_is_certain() -> None:
    for seed in range(20):
        assert all(one.is_certain for one in ordered(a_history(seed), "order"))


@pytest.mark.parametrize("service", ["billing", "notification"])
def test_facts_of_different_topics_in_one_gap_may_change_places(service: str) -> None:
    """In rows they do, apart from the number of their step."""
    swapped = 0
    for seed in range(40):
        shop = a_history(seed)
        live, events = shop.services[service], [one.event for one in ordered(shop, service)]
        for at, (one, other) in enumerate(pairwise(events)):
            if service not in (one.source, other.source) and one.source != other.source:
                changed = [
                    *events[:at],
                    other.applied_as(one.applied_sequence),
                    one.applied_as(other.applied_sequence),
                ]
                changed += events[at + 2 :]
                assert without_steps(folded(live, changed)) == without_steps(live.state)
                swapped += 1
    assert swapped > 10


def without_steps(value: Any) -> Any:
    """The number of every step is 0."""
    if isinstance(value, Mapping):
        return {name: without_steps(one) for name, one in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    told = {field.name: without_steps(getattr(value, field.name)) for field in fields(value)}
    return replace(value, **told | ({"step": 0} if "step" in told else {}))


@pytest.mark.parametrize("seed", range(10))
def test_a_fact_that_is_gone_is_noticed(seed: int) -> None:
    shop = a_history(seed)
    own, heard = read_from_kafka(shop, "billing")
    last = shop.services["billing"].sequence
    with pytest.raises(Unordered, match="facts heard"):
        in_steps(own, {topic: events[1:] for topic, events in heard.items()}, last)
    with pytest.raises(Unordered, match="facts heard"):
        in_steps(own[1:], heard, last)


def test_a_fact_too_many_is_noticed() -> None:
    shop = a_history(1)
    own, heard = read_from_kafka(shop, "billing")
    first = own[0]
    more = [replace(heard["user"][0], id=first.id), *heard["user"]]
    with pytest.raises(Unordered, match="facts heard"):
        in_steps(own, {**heard, "user": more}, shop.services["billing"].sequence)


def test_what_was_heard_after_what_it_led_to_is_noticed() -> None:
    shop = a_history(1)
    own, heard = read_from_kafka(shop, "billing")
    own = [replace(own[0], sequence=1), *own[1:]]
    with pytest.raises(Unordered):
        in_steps(own, heard, shop.services["billing"].sequence)
