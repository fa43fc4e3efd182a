"""Billing hears nothing for a while: what was accepted is decided in time, and the rest is turned away."""

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings
from tests.component.alone import assert_problem
from tests.shop import BUILDS, Shop, eventually


async def test_orders_are_turned_away_while_nobody_decides_and_taken_again_afterwards(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await shop.customer("400.00")
    build = BUILDS["billing"]

    def deaf(settings: Settings) -> tuple[Runtime[Any], FastAPI]:
        runtime, app = build(settings)
        del runtime.watched["consumer"]
        return runtime, app

    with monkeypatch.context() as patch:
        patch.setitem(BUILDS, "billing", deaf)
        await shop.stop("billing")
        await shop.begin("billing")
    first: list[httpx2.Response] = []

    async def one_more() -> httpx2.Response:
        answer = await ada.order("1", key=str(len(first)))
        if answer.status_code == 202:
            first.append(answer)
        return answer

    refused = await eventually(one_more, lambda answer: answer.status_code != 202)
    assert first, "there was time for some"
    assert_problem(refused, 503, "overloaded")
    assert int(refused.headers["Retry-After"]) > 0
    for number, answer in enumerate(first):
        again = await ada.order("1", key=str(number))
        assert (again.status_code, again.content) == (202, answer.content)
    assert (await ada.deposit("400.00")).status_code == 201
    accepted = all_orders(shop, str(ada.id))
    assert set(accepted) == {"created"}

    await shop.stop("billing")
    await shop.start("billing")

    async def decided() -> httpx2.Response:
        return await ada.order("1", wait=20)

    # While the door is shut one order is let in now and then, so that one is no sign that it is open.
    last = await eventually(decided, lambda answer: answer.status_code == 201)
    assert last.json()["status"] == "confirmed"
    await eventually(
        lambda: asyncio.to_thread(all_orders, shop, str(ada.id)), lambda found: set(found) == {"confirmed"}
    )


def all_orders(shop: Shop, user_id: str) -> list[str]:
    query = "SELECT status FROM orders WHERE user_id = %s"
    return [status for (status,) in shop.rows("order", query, user_id)]
