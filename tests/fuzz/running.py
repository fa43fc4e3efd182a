"""A shop that answers over HTTP from a thread of its own, so that plain synchronous clients can ask it."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import uvicorn

from choreo.chassis.http.protocol import BoundedProtocol, Connections
from choreo.demo.client import Customer
from choreo.embedded.kafka import Kafka
from choreo.embedded.postgres import Postgres
from tests.services import SERVICES
from tests.shop import Shop, a_shop
from user_service import login_limit

T = TypeVar("T")

ENDS_SESSIONS = ("/users/me/password", "/users/me/sessions/end")
"""What a customer cannot ask for without losing the token."""


@dataclass(frozen=True)
class Served:
    """All services on ports of their own."""

    shop: Shop
    urls: Mapping[str, str]
    loop: asyncio.AbstractEventLoop
    http: httpx2.Client

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def busy_customer(self) -> tuple[Customer, dict[str, str]]:
        """Somebody with money, an order that is paid and its notification; and their ids, by service."""

        async def make() -> tuple[Customer, dict[str, str]]:
            customer = await self.shop.customer(balance="400.00")
            order = (await customer.order("300.00", wait=30)).raise_for_status().json()
            (notification,) = await self.shop.notified(customer, 1)
            return customer, {"order": order["id"], "notification": notification["id"]}

        return self.run(make())


@contextmanager
def served(kafka: Kafka, postgres: Postgres, templates: dict[str, str], maildir: Path) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shop")
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    closing: list[Any] = []

    async def start(http: httpx2.Client) -> Served:
        context = a_shop(kafka, postgres, templates, maildir)
        shop = await context.__aenter__()
        closing.append(lambda: context.__aexit__(None, None, None))
        await shop.start(*SERVICES)
        urls = {}
        for name in SERVICES:
            listening = socket.create_server(("127.0.0.1", 0))
            connections = Connections(shop.settings.connections, shop.runtimes[name].metrics.registry)
            config = uvicorn.Config(
                shop.apps[name],
                http=partial(BoundedProtocol, connections=connections),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
            )
            server = uvicorn.Server(config)
            serving = asyncio.ensure_future(server.serve(sockets=[listening]))

            async def stop(server: uvicorn.Server = server, serving: Any = serving) -> None:
                server.should_exit = True
                await serving

            closing.append(stop)
            urls[name] = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return Served(shop, urls, loop, http)

    # Whoever fuzzes has one address, and seldom the right password.
    login_limit.MOST_OF_ADDRESS = 10**6
    try:
        with httpx2.Client(timeout=60, trust_env=False) as http:
            yield run(start(http))
    finally:
        for close in reversed(closing):
            run(close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
