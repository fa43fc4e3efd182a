"""Whatever can happen in the shop, for a replay to make again."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.chassis.database.connection import Connection
from choreo.chassis.transaction import outbox
from choreo.demo.client import registration
from choreo.message.envelope import Event
from events.order import OrderCreated
from tests.choreography.ending import caught_up, settled
from tests.choreography.test_parking import retried
from tests.shop import Shop, eventually
from user_service import queries as user_queries


async def nobody(*asked: object) -> None: ...


async def play(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders, cancels, refunds, rejections, refusals, repeats, orders that wait, a key that is parked and
    retried; then nothing is on its way."""
    ada = await shop.customer("400.00")
    # As somebody who wants the login at the same moment, and so finds it free.
    with monkeypatch.context() as at_once:
        at_once.setattr(user_queries, "taken", nobody)
        taken = registration(ada.login.upper())
        assert (await shop.clients["user"].post("/users", json=taken)).status_code == 409
    confirmed = (await ada.order("100.00", wait=30)).json()
    rejected = (await ada.order("500.00", wait=30)).json()
    assert (await ada.withdraw("1000.00")).status_code == 409
    assert (await ada.withdraw("0.01", key="once")).status_code == 201
    assert (await ada.withdraw("0.01", key="once")).status_code == 201
    assert (await ada.cancel(confirmed["id"])).status_code == 202
    assert (await ada.cancel(rejected["id"])).status_code == 409
    exactly = (await (bob := await shop.customer("10.00")).order("10.00", wait=30)).json()
    assert exactly["status"] == "confirmed"

    dave = await shop.customer()
    for key in ("once", "again", "again"):
        assert (await dave.post("user", "/users/me/sessions/end", {}, key)).status_code == 204
        dave = await shop.logged_in(dave)

    # Somebody whose registration comes late: orders wait for an account.
    async def held(conn: Connection, partitions: Collection[int], limit: int) -> list[outbox.OutboxRow]:
        return [] if conn.info.dbname.endswith("_user") else await lowest(conn, partitions, limit)

    lowest = outbox.lowest
    monkeypatch.setattr(outbox, "lowest", held)
    eve = await shop.customer()
    # So many that two hash seeds do not put them into one order by chance.
    prices = "3.00", "2.00", "1.00", "4.00", "5.00", "2.50", "1.50", "3.50", "4.50"
    for price in prices:
        assert (await eve.order(price)).status_code == 202
    gone = (await eve.order("1.00")).json()
    assert (await eve.cancel(gone["id"])).status_code == 202
    query = "SELECT count(*) FROM payments WHERE outcome = 'waiting' AND user_id = %s"
    await eventually(
        lambda: asyncio.to_thread(shop.rows, "billing", query, eve.id),
        lambda found: found == [(len(prices),)],
    )
    monkeypatch.setattr(outbox, "lowest", lowest)
    await shop.account_of(eve)

    # Billing is deployed with a bug, which parks a key, and then without.
    await shop.stop("billing")
    late = (await ada.order("7.00")).json()

    def buggy(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(ada.id) and isinstance(event.data, OrderCreated):
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    monkeypatch.setattr(billing_service, "evolve", buggy)
    await shop.start("billing")
    assert (await bob.order("1.00", wait=30)).json()["status"] == "rejected"
    await caught_up(shop)
    await shop.stop("billing")
    monkeypatch.setattr(billing_service, "evolve", evolve)
    await shop.start("billing")
    assert (await ada.cancel(late["id"])).status_code == 202
    await retried(shop)
    await settled(shop)
