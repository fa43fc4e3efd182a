"""A toy service behind the real edge: things that cost money."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx2
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.params import Form
from pydantic import BaseModel, StringConstraints
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from choreo.chassis.http import auth
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.auth import Jwk, Verifier
from choreo.chassis.http.body import Body
from choreo.chassis.http.edge import create_app
from choreo.chassis.http.money import Amount, Money
from choreo.chassis.http.pages import Page
from choreo.chassis.http.problems import Problem, unavailable
from choreo.chassis.http.routes import (
    FreshCause,
    KeyedCause,
    Paging,
    PreferredWait,
    Router,
    User,
    Wait,
    problem,
)
from choreo.chassis.observe.health import Health
from choreo.chassis.observe.metrics import Metrics
from choreo.chassis.waiting.turns import Turns

NOW = 1_800_000_000.0


class NewThing(Body):
    price: Amount
    name: Annotated[str, StringConstraints(max_length=20)] | None = None
    password: Annotated[str, StringConstraints(min_length=8)] | None = None


class Login(Body):
    username: str
    password: Annotated[str, StringConstraints(min_length=8)]


class Thing(BaseModel):
    id: UUID
    price: Money
    name: str | None


class Away(Exception):
    pass


class KnownKeys:
    """The keys this service has heard of; `publish` is the news arriving."""

    def __init__(self) -> None:
        self.keys: dict[str, Jwk] = {}
        self.late = False
        self.asked_for: list[str] = []
        self.somebody_waits = asyncio.Event()
        self._news = asyncio.Event()

    def publish(self, key: Jwk) -> None:
        self.keys[key["kid"]] = auth.public_part(key)
        self._news.set()

    async def find(self, kid: str) -> Jwk | None:
        self.asked_for.append(kid)
        return self.keys.get(kid)

    async def wait_for(self, kid: str, timeout: float) -> Jwk | None:
        self.somebody_waits.set()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass
        return self.keys.get(kid)

    async def lags(self) -> bool:
        return self.late


class Toy:
    """The app, its parts, and everything its endpoints were called with."""

    def __init__(self) -> None:
        self.key = auth.generate_key("first")
        self.user_id = uuid4()
        self.now = NOW
        self.keys = KnownKeys()
        self.keys.keys["first"] = auth.public_part(self.key)
        self.health = Health()
        self.metrics = Metrics()
        self.applied = uuid4()
        """A flow that was."""
        self.calls: list[dict[str, Any]] = []
        self.verifier = Verifier(self.keys, now=lambda: self.now, key_timeout=0.0)
        self.app: FastAPI = create_app(
            "toy",
            [self._endpoints(), self._open_endpoints()],
            verifier=self.verifier,
            flow_applied=lambda *asked: self._flow_applied(*asked),
            turns=Turns(),
            health=self.health,
            metrics=self.metrics,
            hosts=["toy"],
            translate={Away: unavailable("The mapping is away.")},
        )

    def token(self, **changes: Any) -> str:
        return auth.sign(self.key, self.user_id, now=self.now, **changes)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token()}", "Idempotency-Key": "k"}

    def client(self) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://toy")

    async def _flow_applied(self, user_id: UUID, flow: UUID, seconds: int) -> bool:
        self.calls.append({"user_id": user_id, "flow": flow, "wait": seconds})
        return flow == self.applied

    def _endpoints(self) -> Router:
        router = Router()

        @router.post("/things", status_code=201, response_model=Thing, responses={409: problem("sold out")})
        async def make(thing: NewThing, user: User, cause: KeyedCause, wait: PreferredWait) -> Answer:
            self.calls.append({"thing": thing, "user": user, "cause": cause, "wait": wait})
            if thing.name == "sold out":
                raise Problem(409, "sold_out", "None is left.", requested="1.00")
            if thing.name == "bug":
                raise RuntimeError(f"secret {thing.password}")
            if thing.name == "away":
                raise Away
            body = Thing(id=cause.id, price=thing.price, name=thing.name)
            return Answer.json(201, body, {"Location": f"/things/{cause.id}"})

        @router.get("/things")
        async def things(user: User, paging: Paging) -> Page[Thing]:
            rows = [n for n in range(300, 0, -1) if paging.before is None or n < paging.before]
            return paging.page(
                rows, item=lambda n: Thing(id=UUID(int=n), price=n, name=None), sequence=lambda n: n
            )

        @router.get("/things/{thing_id}")
        async def thing(thing_id: UUID, user: User, wait: Wait) -> Thing:
            self.calls.append({"thing_id": thing_id, "wait": wait})
            return Thing(id=thing_id, price=40000, name=None)

        @router.post("/things/{thing_id}/break", status_code=202)
        async def smash(thing_id: UUID, user: User, cause: KeyedCause) -> Answer:
            self.calls.append({"thing_id": thing_id, "cause": cause})
            return Answer.json(202, {})

        return router

    def _open_endpoints(self) -> Router:
        router = Router(public=True)

        @router.post("/login")
        async def login(form: Annotated[Login, Form()], cause: FreshCause) -> Answer:
            self.calls.append({"form": form, "cause": cause})
            return Answer.json(200, {})

        @router.get("/stream")
        async def stream(request: Request) -> PlainTextResponse:
            return PlainTextResponse(request.headers.get("last-event-id", "none"))

        @router.get("/half")
        async def half() -> StreamingResponse:
            async def parts() -> AsyncIterator[bytes]:
                yield b"half"
                raise RuntimeError

            return StreamingResponse(parts())

        return router


@pytest_asyncio.fixture
async def toy() -> Toy:
    return Toy()


@pytest_asyncio.fixture
async def client(toy: Toy) -> AsyncIterator[httpx2.AsyncClient]:
    async with toy.client() as client:
        yield client


@pytest.fixture(scope="session")
def lasting_toy() -> Toy:
    """For property tests, which ask the same app many times."""
    return Toy()


@pytest.fixture(scope="session")
def new_thing() -> type[NewThing]:
    return NewThing
