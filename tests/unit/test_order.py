"""From Kafka alone every service can be made anew, whatever met whatever."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from events.envelope import Event
from events.fact import Fact
from notification_service.state import Notifications
from replay.order import Unordered, in_steps
from tests.unit.choreography import DECIDERS, READERS, Choreography


def a_history(seed: int) -> Choreography:
    """Whatever can happen, in any order, until nothing is on its way."""
    random, shop = Random(seed), Choreography(DECIDERS)
    for _ in range(60):
        shop.seconds += 1
        match random.randrange(9):
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
    shop.settle()
    return shop


def read_from_kafka(
    shop: Choreography, service: str
) -> tuple[list[Event[Fact]], dict[str, list[Event[Fact]]]]:
    """What the service decided, and by topic what it heard."""
    topics = {topic for reader, topic in READERS if reader == service}
    return shop.topics[service], {topic: list(shop.topics[topic]) for topic in topics}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("service", ["order", "billing", "notification"])
def test_what_is_made_of_the_topics_is_what_the_service_has(seed: int, service: str) -> None:
    shop = a_history(seed)
    own, heard = read_from_kafka(shop, service)
    live = shop.services[service]
    state = live.empty
    for event in in_steps(own, heard):
        state = live.decider.evolve(state, event)
    assert without_steps(state) == without_steps(live.state)


def without_steps(state: Any) -> Any:
    """A notification's step depends on when its user was heard of, which is in another topic, and which
    nothing else depends on."""
    if isinstance(state, Notifications):
        told = {id: replace(one, step=0) for id, one in state.notifications.items()}
        return replace(state, notifications=told)
    return state


@pytest.mark.parametrize("seed", range(10))
def test_a_fact_that_is_gone_is_noticed(seed: int) -> None:
    shop = a_history(seed)
    own, heard = read_from_kafka(shop, "billing")
    lost = {topic: events[1:] for topic, events in heard.items()}
    with pytest.raises(Unordered):
        in_steps(own, lost)


def test_a_fact_too_many_is_noticed() -> None:
    shop = a_history(1)
    own, heard = read_from_kafka(shop, "billing")
    first = own[0]
    more = [replace(heard["user"][0], id=first.id), *heard["user"]]
    with pytest.raises(Unordered):
        in_steps(own, {**heard, "user": more})
