"""One service over HTTP with its real database, and no Kafka: the test plays the consumer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis import clock
from choreo.chassis.database.connection import raw_connection
from choreo.chassis.http import auth
from choreo.chassis.runtime import Runtime
from choreo.chassis.settings import Settings
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import FactTypes, Heard, read
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Position
from choreo.demo.client import Customer
from choreo.embedded.ports import free_ports
from choreo.embedded.postgres import Postgres
from choreo.message.catalog import SOURCE_OF_TYPE, topic_of
from choreo.message.codec import Record, decode, encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.message.signing_key import SigningKeyPublished
from tests.databases import Database, a_database
from tests.shop import BUILDS, PATIENCE

NEVER = datetime(2100, 1, 1, tzinfo=UTC)


def an_event(fact: Fact, *, sequence: int = 1, id: UUID | None = None) -> Event[Fact]:
    """A fact as another service would send it, at the root of a flow of its own."""
    id = id or uuid4()
    return Event(
        id=id,
        source=SOURCE_OF_TYPE[type(fact).__name__],
        time=datetime.now(UTC),
        key=fact.key,
        sequence=sequence,
        correlation_id=id,
        causation_id=None,
        trace_id=id.hex,
        data=fact,
    )


@dataclass
class Reader:
    """A partition of a topic as the consumer hands it to the kernel: bytes first, offset by offset."""

    kernel: Kernel[Any]
    topic: str
    partition: int = 0
    next_offset: int = 0

    async def begin(self, engine: AsyncEngine) -> "Reader":
        """The position is made here, as the consumer does before it reads."""
        async with raw_connection(engine) as conn:
            await positions.begin(conn, [Position(self.topic, self.partition, 0, "topic", "cluster")])
            await conn.commit()
        return self

    def put(
        self,
        event: Event[Fact],
        *,
        offset: int | None = None,
        raw: Record | None = None,
        **more: Any,
    ) -> "asyncio.Future[None]":
        """At the next offset, or at one that was read before or comes much later."""
        record = raw or encode(event)
        return self._put(record, decode(record), None, offset, **more)

    def put_marker(self, fetched_from: int, offset: int, **more: Any) -> "asyncio.Future[None]":
        """Up to this offset there is no record."""
        nothing = Record(None, None, [])
        return self._put(nothing, None, None, offset, fetched_from=fetched_from, **more, is_marker=True)

    def put_undecodable(self, key: bytes | None, value: bytes = b"{") -> "asyncio.Future[None]":
        return self.put_unreadable(Record(key, value, []))

    def put_unreadable(self, record: Record) -> "asyncio.Future[None]":
        """Whatever it holds, this reader cannot read it."""
        return self._put(record, None, "the header ce_type is missing", None)

    def put_record(self, record: Record, consumes: FactTypes) -> "asyncio.Future[None]":
        """As the consumer does: what it is, is told from its bytes."""
        return self._put(record, *read(record, consumes), None)

    async def hear(self, *facts: Fact) -> list[Event[Fact]]:
        """Returns once they are committed."""
        events = [an_event(fact) for fact in facts]
        await asyncio.gather(*[self.put(event) for event in events])
        return events

    def _put(
        self, record: Record, event: Event[Fact] | None, error: str | None, offset: int | None, **more: Any
    ) -> "asyncio.Future[None]":
        if offset is None:
            offset = self.next_offset
            self.next_offset += 1
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        too_late = loop.call_later(PATIENCE, _give_up, done)
        done.add_done_callback(lambda _: too_late.cancel())
        place = self.topic, self.partition
        self.kernel.hear(Heard(*place, offset, record, event, error, clock.now(), done, **more))
        return done


def _give_up(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_exception(TimeoutError(f"not committed within {PATIENCE} s"))


@dataclass
class Alone:
    """The service, its client and its database. Every customer of a test is somebody new."""

    service: str
    runtime: Runtime[Any]
    app: FastAPI
    http: httpx2.AsyncClient
    database: Database
    _key: auth.Jwk = field(default_factory=lambda: auth.generate_key(uuid4().hex))
    _readers: dict[str, Reader] = field(default_factory=dict)

    async def hear(self, *facts: Fact) -> list[Event[Fact]]:
        """Each from its own topic. Returns once they are committed."""
        return [event for fact in facts for event in await (await self._reader(fact)).hear(fact)]

    async def hear_event(self, event: Event[Fact]) -> None:
        await (await self._reader(event.data)).put(event)

    async def customer(self, id: UUID | None = None) -> Customer:
        """Somebody with a valid token; nothing else is known of them here."""
        if self._key["kid"] not in {kid for (kid,) in self.database.rows("SELECT kid FROM signing_keys")}:
            public = dict(auth.public_part(self._key))
            await self.hear(SigningKeyPublished(kid=self._key["kid"], public_jwk=public, not_after=NEVER))
        id = id or uuid4()
        token = auth.sign(self._key, id, now=time.time())
        return Customer({self.service: self.http}, id, f"ada-{id.hex[:8]}", token)

    async def _reader(self, fact: Fact) -> Reader:
        topic = topic_of(SOURCE_OF_TYPE[type(fact).__name__])
        if topic not in self._readers:
            self._readers[topic] = await Reader(self.runtime.kernel, topic).begin(self.runtime.engine)
        return self._readers[topic]


@asynccontextmanager
async def alone(
    service: str, postgres: Postgres, templates: dict[str, str], *, consuming: bool = False
) -> AsyncIterator[Alone]:
    """`consuming`: the consumer runs, too, and finds no Kafka. Otherwise the test hands over the records."""
    with a_database(service, postgres, templates) as database:
        async with a_process(service, database, consuming=consuming) as process:
            yield process


@asynccontextmanager
async def a_process(service: str, database: Database, *, consuming: bool = False) -> AsyncIterator[Alone]:
    """One of perhaps several on this database, at once or one after the other."""
    (closed_port,) = free_ports(1)
    settings = Settings(
        kafka_bootstrap_servers=f"127.0.0.1:{closed_port}",
        smtp_url=None,
        partitions=3,
        database_urls={service: database.runtime_url},
    )
    runtime, app = BUILDS[service](settings)
    if not consuming:
        runtime.watched.pop("consumer", None)
    # Nothing is published here, and orders would be turned away for it soon: a test may look itself.
    runtime.watched.pop("admission", None)
    transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
    client = httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
    async with runtime.running() as died, client:
        yield Alone(service, runtime, app, client, database)
        assert not died.done(), "a job died"


ROUTES = {
    "user": [("GET", "/users/me"), ("PUT", "/users/me/password"), ("POST", "/users/me/sessions/end")],
    "billing": [
        ("GET", "/account"),
        ("POST", "/account/deposits"),
        ("POST", "/account/withdrawals"),
        ("GET", "/account/entries"),
    ],
    "order": [
        ("POST", "/orders"),
        ("GET", "/orders"),
        ("GET", f"/orders/{uuid4()}"),
        ("POST", f"/orders/{uuid4()}/cancel"),
    ],
    "notification": [("GET", "/notifications"), ("GET", f"/notifications/{uuid4()}")],
}
"""What needs a token."""


async def assert_closed_to_strangers(service: Alone) -> None:
    for method, path in ROUTES[service.service]:
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer no.token.at-all"}):
            answer = await service.http.request(method, path, headers=headers)
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem's body, whose form is the contract's."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), (
        answer.text
    )
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:choreo:problem:{code}"
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    return problem


def assert_refused_at(answer: httpx2.Response, *pointers: str) -> None:
    """422, naming exactly these fields."""
    problem = assert_problem(answer, 422, "invalid_request")
    assert sorted(error["pointer"] for error in problem["errors"]) == sorted(pointers)
    assert all(error["detail"] for error in problem["errors"])
