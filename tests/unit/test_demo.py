"""The story is the shop's: what further services decide beside it is shown, and is no fault."""

from dataclasses import replace
from uuid import UUID

import httpx2
import pytest

from choreo.demo.story import Stage, Unexpected
from choreo.replay.trace.published_events import PublishedEvent
from tests.unit.test_hops import ORDERS, event


class Heard:
    """What Kafka has of one flow."""

    def __init__(self, *events: PublishedEvent) -> None:
        self._events = list(events)

    async def until(self, flow: UUID, enough: object, seconds: float) -> list[PublishedEvent]:
        return self._events


ORDERED = event("OrderCreated", "order", ORDERS, 0, decided=1, appended=2, sequence=1)
EARNED = replace(ORDERED, id=UUID(int=1), type="PointsEarned", source="points", topic="points-events")
TWICE = replace(ORDERED, id=UUID(int=2))
ANSWER = httpx2.Response(
    202, headers={"Flow-Id": str(ORDERED.flow)}, request=httpx2.Request("POST", "http://shop.test/orders")
)


async def test_an_expectation_is_of_the_shops_services_alone() -> None:
    await Stage({}, Heard(ORDERED, EARNED)).causes(ANSWER, "OrderCreated")  # type: ignore[arg-type]
    with pytest.raises(Unexpected, match="POST /orders causes OrderCreated: expected"):
        await Stage({}, Heard(ORDERED, TWICE)).causes(ANSWER, "OrderCreated")  # type: ignore[arg-type]
