"""`choreo trace` on a shop: what followed, what is missing and why; and that looking changes nothing."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import KafkaError
from httpx2 import ASGITransport, AsyncClient
from typer.testing import CliRunner, Result

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.cli.debugging.record import recorded
from choreo.cli.main import app
from choreo.console.app import create_app
from choreo.message.envelope import Event
from choreo.operations.reading.flows import flows, traced
from choreo.operations.reading.log import read_log
from choreo.replay.trace.flows import FlowFilter, state_of
from choreo.replay.trace.log import RecordFilter
from choreo.replay.trace.trace import Node, Tree
from tests.choreography.ending import caught_up, sent_out, stranger
from tests.services import SERVICES
from tests.shop import Shop


def told(trees: list[Tree]) -> list[tuple[int, str]]:
    """Types, by depth."""
    return [(depth, node.way.event.type) for tree in trees for depth, node in tree.everything()]


def nodes(trees: list[Tree]) -> Iterator[Node]:
    return (node for tree in trees for _, node in tree.everything())


def gaps(trees: list[Tree]) -> list[tuple[str, str, tuple[str, ...]]]:
    found = [gap for tree in trees for gap in tree.gaps]
    found += [gap for node in nodes(trees) for gap in node.gaps]
    return [(gap.service, gap.state, gap.expects) for gap in found]


PAID = ("PaymentConfirmed", "PaymentRejected")


async def test_a_trace_tells_what_followed_and_what_is_missing_and_changes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An order that is confirmed and then cancelled, one that waits for its account, one that is parked."""
    ada, bob, eve = await shop.customer("400.00"), await shop.customer("10.00"), stranger(shop)
    paid = (await ada.order("100.00", wait=30)).json()["id"]
    cancel = await ada.cancel(paid)
    await shop.until(
        "notification", ada, ada.notifications, lambda found: [one["status"] for one in found] == ["sent"] * 2
    )

    def buggy(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(bob.id):
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    await shop.stop("billing")
    monkeypatch.setattr(billing_service, "evolve", buggy)
    await shop.start("billing")
    parked = (await bob.order("1.00")).json()["id"]
    queued = (await bob.order("2.00")).json()["id"]
    waits = (await eve.order("3.00")).json()["id"]
    await caught_up(shop)
    await shop.stop()
    before = await sent_out(shop), what_is_kept(shop)

    trees, _ = await traced(shop.installation, paid)
    assert told(trees) == [
        (0, "OrderCreated"),
        (1, "PaymentConfirmed"),
        (2, "NotificationSent"),
        (0, "OrderCancelled"),
        (1, "PaymentRefunded"),
        (2, "NotificationSent"),
    ]
    assert gaps(trees) == []
    assert [tree.asked.type for tree in trees if tree.asked] == ["PlaceOrder", "CancelOrder"]
    for node in nodes(trees):
        assert node.way.origin and all(hop.ms is not None for hop in node.way.origin.hops)
        assert {hearing.outcome for hearing in node.way.hearings} <= {"applied"}

    payment = next(nodes(trees)).children[0].way.event
    mailed = next(node.way.event for node in nodes(trees) if node.way.event.type == "NotificationSent")
    for id in (
        payment.id,
        cancel.headers["Flow-Id"],
        notification_of(shop, paid),
        paid[:13],
        f"00-{payment.flow.hex}-00f067aa0ba902b7-01",
        # In no database, so the log is read.
        payment.data["payment_id"],
        mailed.id,
    ):
        again, _ = await traced(shop.installation, str(id))
        assert told(again) == told(trees), "whichever id of it is asked for"

    trees, _ = await traced(shop.installation, waits)
    assert told(trees) == [(0, "OrderCreated")]
    assert gaps(trees) == [("billing", "waiting", PAID)]

    trees, _ = await traced(shop.installation, parked)
    assert gaps(trees) == [("billing", "parked", PAID)]
    (gap,) = next(nodes(trees)).gaps
    assert gap.says.startswith("ZeroDivisionError: a bug (tests/choreography/test_trace.py:")
    trees, _ = await traced(shop.installation, queued)
    assert gaps(trees) == [("billing", "queued", PAID)]

    # Nobody hears of a deposit: the journal says that there is one, and when.
    trees, left_out = await traced(shop.installation, str(ada.id))
    assert [tree.asked.type for tree in trees if tree.asked] == [
        "Register",
        "Deposit",
        "PlaceOrder",
        "CancelOrder",
    ]
    assert (told(trees)[:3], left_out) == (
        [(0, "UserRegistered"), (1, "AccountCreated"), (0, "MoneyDeposited")],
        0,
    )
    login = next(nodes(trees)).way.event.data["login"]
    for name in (login.upper(), str(ada.id)[:8], f" {ada.id}"):
        assert told((await traced(shop.installation, name))[0]) == told(trees)
    newest, left_out = await traced(shop.installation, str(bob.id), limit=1)
    assert ([node.way.event.data["order_id"] for node in nodes(newest)], left_out) == ([queued], 3)
    deposit = next(node.way.event.id for node in nodes(trees) if node.way.event.type == "MoneyDeposited")
    account = next(node.way.event for node in nodes(trees) if node.way.event.type == "AccountCreated")
    assert told((await traced(shop.installation, str(deposit)))[0]) == [(0, "MoneyDeposited")]
    assert told((await traced(shop.installation, account.data["account_id"]))[0]) == told(trees)
    assert await traced(shop.installation, "nobody") == ([], 0)
    away = shop.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(KafkaError):
        await traced(replace(shop.installation, settings=away), paid)

    # The same as a list, and as records.
    found = (await flows(shop.installation, FlowFilter(), 50)).flows
    assert [tree.began_at for tree in found] == sorted((tree.began_at for tree in found), reverse=True)
    states = {node.way.event.data.get("order_id"): state_of(tree) for tree in found for node in tree.nodes}
    assert {id: states[id] for id in (paid, waits, parked, queued)} == {
        paid: "finished",
        waits: "in-flight",
        parked: "missing",
        queued: "missing",
    }
    stuck = await flows(shop.installation, FlowFilter(state="missing"), 1)
    assert [node.way.event.data["order_id"] for node in stuck.flows[0].nodes] == [queued]
    assert stuck.next_until == stuck.flows[0].began_at
    older = await flows(shop.installation, FlowFilter(state="missing", until=stuck.next_until), 50)
    assert parked in [node.way.event.data["order_id"] for tree in older.flows for node in tree.nodes]
    assert {state_of(tree) for tree in older.flows} == {"missing"}
    assert [tree.flow for tree in (await flows(shop.installation, FlowFilter(), 50, of=paid)).flows] == [
        tree.flow for tree in reversed((await traced(shop.installation, paid))[0])
    ]
    topic = f"{shop.settings.topic_prefix}order-events"
    page, records = await read_log(shop.installation, "order-events", RecordFilter(key=str(bob.id)))
    assert [read.event.data["order_id"] for read in records if read.event] == [parked, queued]
    (heard,) = records[0].heard
    assert (heard.hearing.service, heard.hearing.outcome) == ("billing", "parked")
    assert heard.entry and heard.entry.error == "ZeroDivisionError: a bug"
    place = f"{topic}[{records[0].record.partition}]@{records[0].record.offset}"
    assert page.looked_at >= len(records)
    assert (await read_log(shop.installation, place, RecordFilter(), 1))[1][0].record == records[0].record
    (of_ada,) = (await read_log(shop.installation, topic, RecordFilter(type="OrderCancelled")))[1]
    assert of_ada.heard and all(heard.hearing.outcome == "applied" for heard in of_ada.heard)

    # And as pages, with nothing but the observer's credential.
    observer = replace(
        shop.installation,
        database_urls=shop.observer_urls,
        owner_urls={},
        runtime_roles={name: name for name in SERVICES},
    )
    transport = ASGITransport(create_app(observer, ["localhost"]), client=("127.0.0.1", 1))
    then = f"/at/billing/accounts?key={ada.id}"
    async with AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as browser:
        for url in ("/now", "/flows", f"/flows/{paid}", f"/log/{topic}", "/parked", "/verify", "/at", then):
            for path in (
                url.replace("?", ".json?") if "?" in url else f"{url}.json",
                url if url != "/now" else "/",
            ):
                assert (await browser.get(path)).status_code == 200, path
        listed = (await browser.get("/flows.json", params={"state": "missing"})).json()["flows"]
        assert len(listed) >= 2 and {flow["state"] for flow in listed} == {"missing"}
        (group,) = (await browser.get("/parked.json")).json()["groups"]
        assert (group["service"], group["error"]) == ("billing", "ZeroDivisionError: a bug")
        findings = (await browser.get("/now.json")).json()["findings"]
        assert {one["says"] for one in findings if one["check"] == "grants"} == {"as they must be"}

    assert (await sent_out(shop), what_is_kept(shop)) == before

    # What was recorded tells the same.
    file = tmp_path / "shop.ndjson.gz"
    await recorded(shop.installation, file)
    for id in (paid, waits, str(ada.id)):
        live_, _ = await traced(shop.installation, id)
        result = await verb("trace", id, str(file), "--format", "tree")
        assert result.exit_code == 0, result.output
        assert all(str(node.way.event.id) in result.output for node in nodes(live_))
        assert max(map(len, result.output.splitlines())) <= 100
    assert (await verb("trace", str(UUID(int=7)), str(file))).exit_code == 1


async def verb(*arguments: str) -> Result:
    """Runs it beside this loop: it has one of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


def what_is_kept(shop: Shop) -> list[object]:
    """Rows of the chassis."""
    counted = (
        "SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM outbox), (SELECT count(*) FROM parked)"
    )
    positions = "SELECT topic, partition, next_offset FROM positions ORDER BY topic, partition"
    return [shop.rows(name, query) for name in SERVICES for query in (counted, positions)]


def notification_of(shop: Shop, order: str) -> object:
    ((id, *_), *_) = shop.rows("notification", "SELECT id FROM notifications WHERE order_id = %s", order)
    return id
