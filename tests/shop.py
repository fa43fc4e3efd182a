"""The services in this process, on the real Kafka and Postgres of the test run, each test for itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2
import psycopg
from fastapi import FastAPI
from pydantic import SecretStr

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.registry import service_names
from choreo.chassis.runtime import Runtime, build_of
from choreo.chassis.settings import OBSERVER, Settings
from choreo.demo.client import Customer
from choreo.embedded.kafka import Kafka
from choreo.embedded.mail import Maildir, MailSession
from choreo.embedded.postgres import Postgres
from choreo.operations.principals import grants_of_all, topic_names
from choreo.operations.reading.installation import Installation
from tests.brokers import Broker
from tests.databases import Database, a_database
from tests.services import SERVICES

T = TypeVar("T")

BUILDS: dict[str, Callable[..., Any]] = {name: build_of(name) for name in SERVICES}
PATIENCE = 60.0
"""Seconds for anything that comes by itself. A machine with much else to do needs them."""
PARTITIONS = 3


class Shop:
    """Services can be started and stopped one by one; what they keep stays."""

    def __init__(
        self, settings: Settings, kafka: Broker, databases: dict[str, Database], maildir: Path
    ) -> None:
        self.settings = settings
        self.kafka = kafka
        self.owner_urls = {service: database.owner_url for service, database in databases.items()}
        self.observer_urls: dict[str, str] = {}
        self.maildir = maildir
        self.builds = BUILDS
        self.runtimes: dict[str, Runtime[Any]] = {}
        self.apps: dict[str, FastAPI] = {}
        self.clients: dict[str, httpx2.AsyncClient] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    async def start(self, *names: str) -> None:
        """Returns once they are ready."""
        await self.begin(*names)
        for name in names:
            await self.ready(name)

    async def begin(self, *names: str) -> None:
        """Returns before they are ready, which they may never be."""
        for name in names:
            stack = AsyncExitStack()
            runtime, app = self.builds[name](self.settings)
            await stack.enter_async_context(runtime.running())
            transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
            client = httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
            self.clients[name] = await stack.enter_async_context(client)
            self.runtimes[name], self.apps[name] = runtime, app
            self._stacks[name] = stack

    async def ready(self, name: str) -> None:
        await eventually(
            lambda: self.clients[name].get("/health/ready"), lambda answer: answer.status_code == 200
        )

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self._stacks):
            del self.runtimes[name], self.apps[name], self.clients[name]
            await self._stacks.pop(name).aclose()

    async def logged_in(self, customer: Customer) -> Customer:
        """The same, with a token of now."""
        return replace(customer, token=await Customer.log_in(self.clients, customer.login))

    async def customer(self, balance: str | None = None) -> Customer:
        """A registered user; with a balance, once the account is there and holds it."""
        customer = await Customer.register(self.clients)
        if balance is not None:
            await self.account_of(customer)
            (await customer.deposit(balance)).raise_for_status()
        return customer

    async def account_of(self, customer: Customer) -> httpx2.Response:
        """Once it is there."""
        return await self.until(
            "billing", customer, customer.account, lambda answer: answer.status_code == 200
        )

    async def notified(self, customer: Customer, count: int) -> list[dict[str, Any]]:
        """The notifications, once there are so many."""
        return await self.until(
            "notification", customer, customer.notifications, lambda found: len(found) >= count
        )

    async def until(
        self, service: str, customer: Customer, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]
    ) -> T:
        """Woken by the commits of that service, not by a clock."""
        seen = await self.runtimes[service].kernel.waiters.until(str(customer.id), PATIENCE, look, enough)
        assert enough(seen), f"not within {PATIENCE} s: {seen}"
        return seen

    @property
    def installation(self) -> Installation:
        """As an operator's tools find it."""
        return Installation(self.settings, self.settings.database_urls, owner_urls=self.owner_urls)

    def rows(self, service: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Straight from a service's database."""
        with psycopg.connect(self.owner_urls[service]) as conn:
            return conn.execute(query.encode(), values).fetchall()


async def eventually(look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
    """For what gives no signal: asks again and again, without a pause of its own, until it is enough."""
    async with asyncio.timeout(PATIENCE):
        while not enough(seen := await look()):  # noqa: ASYNC110 - another process gives no signal
            await asyncio.sleep(0.02)
    return seen


@asynccontextmanager
async def a_shop(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], maildir: Path
) -> AsyncIterator[Shop]:
    """Topics and databases of its own; nothing is running yet. `templates` are migrated databases."""
    with ExitStack() as stack:
        databases = {
            service: stack.enter_context(a_database(service, postgres, templates))
            for service in service_names()
        }
        mail_server, smtp_url = await _mail_server(maildir)
        users = {who: kafka.user(who) for who in (*service_names(), OBSERVER)}
        settings = Settings(
            kafka_bootstrap_servers=kafka.bootstrap,
            kafka_security_protocol=kafka.admin.protocol,
            smtp_url=smtp_url,
            topic_prefix=f"t{uuid4().hex[:10]}-",
            partitions=PARTITIONS,
            database_urls={service: database.runtime_url for service, database in databases.items()},
            kafka_usernames={who: user.username for who, user in users.items()},
            kafka_passwords={who: SecretStr(user.password) for who, user in users.items()},
        )
        await asyncio.to_thread(declare_topics, kafka.admin, topic_names(settings), PARTITIONS)
        if isinstance(kafka, Kafka):  # one in Docker lets everybody do everything
            await asyncio.to_thread(kafka.admit, grants_of_all(settings))
        shop = Shop(settings, kafka, databases, maildir)
        shop.observer_urls = {
            service: postgres.observer_url(database.name) for service, database in databases.items()
        }
        try:
            yield shop
        finally:
            await shop.stop()
            mail_server.close()


async def _mail_server(maildir: Path) -> tuple[asyncio.Server, str]:
    """Delivers everything to the Maildir; closed by the caller."""
    inbox = Maildir(maildir)
    server = await asyncio.get_running_loop().create_server(lambda: MailSession(inbox), "127.0.0.1", 0)
    return server, f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
