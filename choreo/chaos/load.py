"""Customers who register, pay in, order and cancel, come what may: an open loop, with a journal.

They behave as good clients do. A request that was not answered is sent again under the same idempotency key
until it is; after a minute they give up and do not know. Some are impatient and never ask twice.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Literal
from uuid import uuid4

import httpx2

from choreo.chaos.history import Kind, Request
from choreo.chaos.judging.case import CONSUMED
from choreo.chaos.offers import Offer, offers_in
from choreo.demo.client import PASSWORD, registration

_TIMEOUT = 6.0
"""Seconds until an answer counts as lost. The services themselves give up on their database after five."""
_ANSWER_TIMEOUT_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_IMPATIENT = 0.05
"""This share of the requests is never repeated."""
_TOO_DEAR = 0.1
"""This share of the orders costs more than anybody has."""
_BEYOND_ASCII = 0.2
"""This share of the customers has an address that not every mail server takes."""
_RECENT = 30
"""So many customers, those who came last, pay in and order."""
_BASKETS = (1, 1, 1, 3)
"""How many orders a customer places at once."""
_DEPOSITS, _PRICES = range(10_00, 60_00), range(1_00, 40_00)
_PLACES = {
    "deposit": ("billing", "/account/deposits"),
    "order": ("order", "/orders"),
    "cancel": ("order", "/orders/{marker}/cancel"),
}

Verdict = Literal["ok", "no", "not yet", "lost"]
"""`no` and `not yet`: this attempt had no effect. `lost`: nobody knows whether it had, or will have."""
Send = Callable[[], Awaitable[httpx2.Response]]


@dataclass(frozen=True)
class Rates:
    """Per second. A password costs 26 ms of CPU at registration and again for the token: keep them few."""

    registrations: float = 2.0
    deposits: float = 6.0
    orders: float = 20.0
    cancels: float = 3.0
    others: float = 3.0
    """Of all services together of which the judge knows nothing, where there are any."""


@dataclass
class _Customer:
    id: str
    token: str
    amounts: set[int] = field(default_factory=set)
    """Of the deposits so far: no two are alike, so that each is found again in the log."""
    orders: deque[str] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """The latest that nobody has cancelled yet, by their ids."""


def verdict(request: Request, answer: httpx2.Response) -> Verdict:
    """What an answer says about the attempt that got it."""
    if answer.is_success:
        return "ok"
    if answer.status_code == 409 and not _says_no(request.kind, answer):
        return "lost"
    if answer.is_server_error or answer.status_code == 429:
        return "lost"
    return "not yet" if "Retry-After" in answer.headers else "no"


def _says_no(kind: Kind, conflict: httpx2.Response) -> bool:
    """A 409 may also say that the request is under way."""
    return kind in ("register", "other") or (kind == "cancel" and "already_" in conflict.json()["type"])


class Load:
    """Customers of one system. Their requests add up over any number of `running` blocks."""

    def __init__(self, urls: Mapping[str, str], seed: int, journal: Path, rates: Rates | None = None) -> None:
        """Each request that ended becomes a line of `journal`, with what was met at each attempt."""
        self.requests: list[Request] = []
        self.ended = 0
        """How many of them were answered, or given up."""
        self._urls, self._rates, self._journal = urls, rates or Rates(), journal
        self._seed, self._chance = seed, Random(seed)
        self._numbers = count(1)
        self._customers: deque[_Customer] = deque(maxlen=_RECENT)
        self._offers: dict[str, list[Offer]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Requests are made while the block runs, in a thread with an event loop of its own.

        Left in peace it waits for those under way, a minute at most; else they are dropped.
        """
        enough = asyncio.Event()
        with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
            loop = runner.get_loop()
            everybody = thread.submit(runner.run, self._everybody(enough))
            try:
                yield
                loop.call_soon_threadsafe(enough.set)
                everybody.result()
            except BaseException:
                if everybody.done():
                    everybody.result()  # what ended them is the reason for whatever else went wrong
                loop.call_soon_threadsafe(_cancel_all, loop)
                raise

    async def _everybody(self, enough: asyncio.Event) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=50)
        basket_rate = self._rates.orders * len(_BASKETS) / sum(_BASKETS)
        client = httpx2.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)
        async with client as http, asyncio.TaskGroup() as tasks:
            self._http = http
            arrivals = [
                tasks.create_task(self._arrivals(self._rates.registrations, self._register, tasks)),
                tasks.create_task(self._arrivals(self._rates.deposits, self._deposit, tasks)),
                tasks.create_task(self._arrivals(basket_rate, self._fill_a_basket, tasks)),
                tasks.create_task(self._arrivals(self._rates.cancels, self._cancel, tasks)),
            ]
            for service in self._urls.keys() - CONSUMED.keys():
                tasks.create_task(self._learn(service))
            if self._urls.keys() - CONSUMED.keys():
                arrivals.append(tasks.create_task(self._arrivals(self._rates.others, self._another, tasks)))
            await enough.wait()
            for arrival in arrivals:
                arrival.cancel()

    async def _arrivals(
        self, rate: float, come: Callable[[], Coroutine[Any, Any, None]], tasks: asyncio.TaskGroup
    ) -> None:
        """Independent customers (Poisson), whether or not those before them were answered."""
        at = time.monotonic()
        while True:
            at += self._chance.expovariate(rate)
            await asyncio.sleep(at - time.monotonic())
            tasks.create_task(come())

    # What customers do.

    async def _register(self) -> None:
        login = f"chaos-{self._seed}-{next(self._numbers)}"
        body = registration(login)
        if self._chance.random() < _BEYOND_ASCII:
            body["email"] = f"jörg-{body['email']}"
        request = self._begin("register", login, None, 0)
        met = await self._ask(request, lambda: self._http.post(f"{self._urls['user']}/users", json=body))
        # The login is this request's alone. If it is taken, an earlier attempt was carried out.
        carried_out = request.status == 409 and request.sent > 1
        if request.outcome == "ok" or carried_out:
            token = await self._token(login)
            if carried_out and token and (id := await self._who(token)):
                request.id, request.outcome, request.returned = id, "ok", time.time()
            if request.id and token:
                self._customers.append(_Customer(request.id, token))
        request.user_id = request.id
        self._end(request, met)

    async def _deposit(self) -> None:
        if self._customers:
            customer = self._chance.choice(self._customers)
            amount = self._chance.choice([cents for cents in _DEPOSITS if cents not in customer.amounts])
            customer.amounts.add(amount)
            await self._post(customer, "deposit", uuid4().hex, amount, {"amount": _decimal(amount)})

    async def _fill_a_basket(self) -> None:
        """Several orders at once, of one customer."""
        if self._customers:
            customer = self._chance.choice(self._customers)
            orders = (self._order(customer) for _ in range(self._chance.choice(_BASKETS)))
            await asyncio.gather(*orders)

    async def _order(self, customer: _Customer) -> None:
        too_dear = self._chance.random() < _TOO_DEAR
        price = 90_000_00 if too_dear else self._chance.choice(_PRICES)
        marker = f"order {self._seed}-{next(self._numbers)}"
        body = {"price": _decimal(price), "description": marker}
        request = await self._post(customer, "order", marker, price, body)
        if request.id:
            customer.orders.append(request.id)

    async def _cancel(self) -> None:
        """An order that is paid, rejected or still on its way."""
        customers = [customer for customer in self._customers if customer.orders]
        if customers:
            customer = self._chance.choice(customers)
            order = self._chance.choice(customer.orders)
            customer.orders.remove(order)
            await self._post(customer, "cancel", order, 0, {})

    async def _another(self) -> None:
        """Whatever a service offers of which the judge knows nothing."""
        offers = [offer for there in self._offers.values() for offer in there]
        if self._customers and offers:
            customer, offer = self._chance.choice(self._customers), self._chance.choice(offers)
            request = self._begin("other", offer.name, customer.id, 0)
            url, headers = f"{self._urls[offer.service]}{offer.path}", _headers(customer)
            met = await self._ask(
                request, lambda: self._http.request(offer.method, url, json=offer.body, headers=headers)
            )
            self._end(request, met)

    # How they ask.

    async def _learn(self, service: str) -> None:
        """What it offers, from its API document."""
        if service not in self._offers:
            answer = await self._insist(lambda: self._http.get(f"{self._urls[service]}/openapi.json"))
            if answer:
                self._offers[service] = offers_in(service, answer.json())

    async def _post(
        self,
        customer: _Customer,
        kind: Literal["deposit", "order", "cancel"],
        marker: str,
        amount: int,
        body: Mapping[str, str],
    ) -> Request:
        service, path = _PLACES[kind]
        headers = _headers(customer)
        request = self._begin(kind, marker, customer.id, amount)
        url = f"{self._urls[service]}{path.format(marker=marker)}"
        met = await self._ask(request, lambda: self._http.post(url, json=body or None, headers=headers))
        self._end(request, met)
        return request

    def _begin(self, kind: Kind, marker: str, user_id: str | None, amount: int) -> Request:
        request = Request(kind, marker, user_id, amount, invoked=time.time())
        self.requests.append(request)
        return request

    def _end(self, request: Request, met: list[int | str]) -> None:
        with self._journal.open("a") as file:
            file.write(json.dumps(asdict(request) | {"met": met}) + "\n")
        self.ended += 1

    async def _ask(self, request: Request, send: Send) -> list[int | str]:
        return await ask(
            request, send, 0.0 if self._chance.random() < _IMPATIENT else _ANSWER_TIMEOUT_SECONDS
        )

    async def _token(self, login: str) -> str | None:
        form = {"grant_type": "password", "username": login, "password": PASSWORD}
        answer = await self._insist(lambda: self._http.post(f"{self._urls['user']}/token", data=form))
        return str(answer.json()["access_token"]) if answer else None

    async def _who(self, token: str) -> str | None:
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self._insist(lambda: self._http.get(f"{self._urls['user']}/users/me", headers=headers))
        return str(answer.json()["id"]) if answer else None

    async def _insist(self, send: Send) -> httpx2.Response | None:
        """None where even patience did not help."""
        async for answer in _attempts(send, _ANSWER_TIMEOUT_SECONDS):
            if isinstance(answer, httpx2.Response) and answer.is_success:
                return answer
        return None


async def ask(request: Request, send: Send, patience: float) -> list[int | str]:
    """Fills in what became of the request; returns the status, or the error, that each attempt met."""
    met: list[int | str] = []
    lost = False
    async for answer in _attempts(send, patience):
        request.sent += 1
        if isinstance(answer, httpx2.TransportError):
            met.append(type(answer).__name__)
            lost = True
            continue
        met.append(answer.status_code)
        request.status = answer.status_code
        said = verdict(request, answer)
        lost = lost or said == "lost"
        if said == "ok":
            request.outcome = "ok"
            request.id = None if request.kind == "other" else answer.json()["id"]
        if said in ("ok", "no"):
            break
    if request.outcome != "ok" and not lost:
        request.outcome = "failed"
    request.returned = time.time()
    return met


async def _attempts(send: Send, patience: float) -> AsyncIterator[httpx2.Response | httpx2.TransportError]:
    """What each attempt met, with pauses in between, until so many seconds are over."""
    until, pause = time.monotonic() + patience, _FIRST_PAUSE
    while True:
        try:
            answer: httpx2.Response | httpx2.TransportError = await send()
        except httpx2.TransportError as error:
            answer = error
        yield answer
        if time.monotonic() > until:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _headers(customer: _Customer) -> dict[str, str]:
    return {"Authorization": f"Bearer {customer.token}", "Idempotency-Key": uuid4().hex}


def _decimal(amount: int) -> str:
    return f"{amount // 100}.{amount % 100:02}"


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
