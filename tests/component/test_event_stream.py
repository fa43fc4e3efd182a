"""`GET /orders/{id}/events`: every status an order was in, in order, to whoever listens and whenever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import pytest_asyncio

from choreo.chassis.http import stream, waits
from choreo.demo.client import Customer, Json
from choreo.embedded.postgres import Postgres
from order_service import queries
from tests.component.alone import Alone, a_process, alone, assert_problem
from tests.component.test_order import paid, refunded, refused
from tests.shop import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("order", postgres, templates) as service:
        yield service


class Stream:
    """An open stream, read as it comes, which httpx2's transport for apps cannot do."""

    def __init__(self, app: Any, path: str, headers: dict[str, str]) -> None:
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._begun = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": path,
            "query_string": b"",
            "http_version": "1.1",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in {"Host": "localhost", **headers}.items()
            ],
            "client": ("127.0.0.1", 1),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._sent.put))

    async def _receive(self) -> dict[str, Any]:
        if not self._begun:
            self._begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def part(self) -> bytes:
        """The next piece that is sent; nothing at the end."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self._sent.get()
                if message["type"] == "http.response.body":
                    return bytes(message["body"])

    async def event(self) -> tuple[int, Json]:
        first, second = (await self.part()).decode().strip().split("\n")
        return int(first.removeprefix("id: ")), orjson.loads(second.removeprefix("data: "))

    async def rest(self) -> list[tuple[int, str]]:
        """Numbers and statuses, until it ends by itself."""
        found = []
        while part := await self.part():
            first, second = part.decode().strip().split("\n")
            found.append(
                (int(first.removeprefix("id: ")), orjson.loads(second.removeprefix("data: "))["status"])
            )
        return found

    async def leave(self) -> None:
        """Returns once the service has noticed."""
        self._gone.set()
        async with asyncio.timeout(PATIENCE):
            await self.task


@asynccontextmanager
async def listening(
    process: Alone, customer: Customer, order: Json, last: int | str | None = None
) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {customer.token}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    found = Stream(process.app, f"/orders/{order['id']}/events", headers)
    try:
        yield found
    finally:
        await found.leave()


async def test_an_event_for_each_status_those_so_far_and_those_to_come(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    async with listening(shop, ada, order) as story:
        first, data = await story.event()
        assert data == order
        await shop.hear(paid(order))
        second, data = await story.event()
        assert data == (await ada.orders())[0]
        cancelled = (await ada.cancel(order["id"])).json()
        third, data = await story.event()
        assert data == cancelled
        await shop.hear(refunded(order))
        assert await story.rest() == [(fourth := third + 1, "refunded")]
    assert first < second < third
    async with listening(shop, ada, order) as story:
        assert await story.rest() == [
            (first, "created"),
            (second, "confirmed"),
            (third, "cancelled"),
            (fourth, "refunded"),
        ]


async def test_a_stream_goes_on_after_the_last_event_seen_in_another_process(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    async with listening(shop, ada, order) as story:
        seen, _ = await story.event()
    await shop.hear(paid(order))
    async with a_process("order", shop.database) as later:
        async with listening(later, ada, order, last=seen) as story:
            number, data = await story.event()
            assert data["status"] == "confirmed"
        async with listening(shop, ada, order, last=number) as story:
            await ada.cancel(order["id"])
            assert (await story.event())[1]["status"] == "cancelled"


async def test_a_fact_that_changes_no_status_is_no_event(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    await ada.cancel(order["id"])
    async with listening(shop, ada, order) as story:
        assert [(await story.event())[1]["status"] for _ in range(2)] == ["created", "cancelled"]
        await shop.hear(refused(order))  # it was never paid, so nothing can follow
        assert await story.rest() == []


async def test_where_nothing_can_follow_a_browser_is_told_not_to_come_again(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    await shop.hear(refused(order))
    async with listening(shop, ada, order) as story:
        numbers = [number for number, _ in await story.rest()]
    headers = {"Authorization": f"Bearer {ada.token}", "Last-Event-ID": str(numbers[-1])}
    answer = await shop.http.get(f"/orders/{order['id']}/events", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    for nonsense in ("x", "-1", "9" * 30):
        headers["Last-Event-ID"] = nonsense
        told = await shop.http.get(f"/orders/{order['id']}/events", headers=headers)
        assert told.headers["Content-Type"].startswith("text/event-stream")
        assert told.text.count("id: ") == 2, "everything once more"


async def test_silence_is_broken_by_comments(shop: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.01)
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    async with listening(shop, ada, order) as story:
        await story.event()
        assert [await story.part() for _ in range(2)] == [b": \n\n", b": \n\n"]


async def test_a_client_that_is_gone_leaves_nothing_behind(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    before = len(shop.runtime.kernel.waiters)
    async with listening(shop, ada, order) as story:
        await story.event()
        assert len(shop.runtime.kernel.waiters) == before + 1
    assert len(shop.runtime.kernel.waiters) == before


async def test_other_peoples_orders_have_no_events(shop: Alone) -> None:
    ada, eve = await shop.customer(), await shop.customer()
    order = (await ada.order("1")).json()
    assert_problem(await eve.get("order", f"/orders/{order['id']}/events"), 404, "not_found")


async def test_an_open_stream_ends_when_its_process_does(shop: Alone) -> None:
    ada = await shop.customer()
    order = (await ada.order("1")).json()
    async with a_process("order", shop.database) as closing, listening(closing, ada, order) as story:
        await story.event()
        closing.runtime.kernel.waiters.close()
        assert await story.rest() == []


async def test_many_streams_of_one_order_cost_one_look_and_too_many_are_refused(
    shop: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    async def counted(*asked: Any) -> Any:
        looks.append(asked)
        return await order_of(*asked)

    order_of = queries.order_of
    monkeypatch.setattr(queries, "order_of", counted)
    ada = await shop.customer()
    order = (await ada.order("300.00")).json()
    path, headers = f"/orders/{order['id']}/events", {"Authorization": f"Bearer {ada.token}"}
    streams = [Stream(shop.app, path, headers) for _ in range(waits.MOST)]
    for one in streams:
        assert (await one.event())[1]["status"] == "created"
    assert len(looks) < 8
    assert_problem(await ada.get("order", path), 429, "too_many_waits")
    placed = await ada.order("1.00", wait=10)
    assert (placed.status_code, placed.json()["status"]) == (202, "created")
    bob = await shop.customer()
    theirs = (await bob.order("1.00")).json()
    other = Stream(shop.app, f"/orders/{theirs['id']}/events", {"Authorization": f"Bearer {bob.token}"})
    assert (await other.event())[1]["status"] == "created"

    looks.clear()
    assert (await ada.cancel(order["id"])).status_code == 202
    for one in streams:
        assert (await one.event())[1]["status"] == "cancelled"
    assert len(looks) < 5
    for one in (*streams, other):
        await one.leave()
    assert (await ada.get("order", f"/orders/{order['id']}", wait=1)).status_code == 200
