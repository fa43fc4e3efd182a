"""What `choreo otel` exports: over another style than a whole system has in tests/e2e, again, and late."""

import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from choreo.chassis import clock
from choreo.cli.debugging.trace_formats import as_json
from choreo.operations.reading.flows import traced
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.otlp import Collector
from choreo.operations.reading.traces import CollectorAway, Follower
from tests.otlp import Receiver, assert_bars_are_hops, assert_is_one_order, receiver
from tests.services import SERVICES
from tests.shop import Shop
from tests.styles import wire


def follower(here: Installation, received: Receiver, monkeypatch: pytest.MonkeyPatch) -> Follower:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
    return Follower(here, Collector().take, clock.now() - timedelta(hours=1))


async def tell_all(follower: Follower) -> None:
    begun = clock.now()
    while not follower.has_told(begun):
        await follower.look()
    await follower.close()


async def test_one_order_is_one_trace_also_where_it_is_decided_by_a_call_and_told_by_kafka(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, style = closed_shop, "notifications"
    wire(shop, style)
    await shop.start(*SERVICES)
    ada = await shop.customer("400.00")
    trace, caller = uuid4().hex, uuid4().hex[:16]
    headers = {"traceparent": f"00-{trace}-{caller}-01", "Prefer": "wait=20"}
    order = (await ada.post("order", "/orders", {"price": "1.00"}, headers=headers)).json()["id"]
    unsampled = {"traceparent": f"00-{uuid4().hex}-{caller}-00"}
    await ada.post("billing", "/account/deposits", {"amount": "1.00"}, headers=unsampled)
    await shop.until(
        "notification", ada, ada.notifications, lambda found: [one["status"] for one in found] == ["sent"]
    )
    here = replace(shop.installation, style=style, database_urls=shop.observer_urls)
    with receiver() as received:
        following = follower(here, received, monkeypatch)
        received.is_away, stood = True, set()
        for _ in range(2):
            with pytest.raises(CollectorAway, match="400"):
                await tell_all(following)
            stood.add(following.told_until)
        assert len(stood) == 1 and received.spans == [], "it stays where it is"
        received.is_away = False
        await tell_all(following)
        assert following.told_until > max(stood)
        spans = received.of(trace)
        assert_is_one_order(spans, caller, events_are_kept=True)
        found, _ = await traced(here, order)
        (flow,) = json.loads(as_json(order, found, 0))["flows"]
        assert_bars_are_hops(spans, flow)
        assert unsampled["traceparent"][3:35] not in {span.trace for span in received.spans}, "as it said"

        before = set(received.spans)
        await tell_all(follower(here, received, monkeypatch))
        assert (set(received.spans), len(received.spans)) == (before, 2 * len(before)), "the same ones again"
