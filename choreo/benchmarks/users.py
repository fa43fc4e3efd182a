"""Registered users with a token and money, to place orders with."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode
from uuid import UUID, uuid4

import orjson

from choreo.benchmarks.connection import Answer, Connection
from choreo.chaos.history import Kind, Request

_PASSWORD = "correct horse battery"
_DEPOSIT = "1000000.00"
_PRICE = "0.01"
_AT_ONCE = 4
_ACCOUNT_TIMEOUT_SECONDS = 30.0
_TRIES, _COME_AGAIN_SECONDS = 120, 1.0
TOKEN_LASTS_SECONDS = 300.0
"""In truth three times as long."""
OVERLOADED = b":overloaded"
"""Is in the answer to who is turned away, without any effect."""
_JSON = {"Content-Type": "application/json"}


class Refused(Exception):
    """A service did not answer as it must for the measurement to go on."""


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    login: str
    token: str
    deposit: str = ""
    """The id of what was paid in, if it was."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class OrderMaker:
    """The bytes of `POST /orders`, each with an idempotency key of its own. Keys only have to differ."""

    def __init__(self, user: User, price: str = _PRICE) -> None:
        self._price = price
        self._accepted: list[bytes] = []
        self._unanswered: list[bytes] = []
        self._key = uuid4().hex.encode() + b"-"
        self._count = 0
        self.is_now(user)

    def is_now(self, user: User) -> None:
        """The same one, with another token."""
        body = orjson.dumps({"price": self._price})
        head = (
            "POST /orders HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Authorization: Bearer {user.token}",
            "Idempotency-Key: ",
        )
        self.user, self.token_since = user, time.monotonic()
        self._before = "\r\n".join(head).encode() + self._key
        self._after = b"\r\n\r\n" + body

    def next(self) -> bytes:
        self._count += 1
        return self._before + str(self._count).encode() + self._after

    def answered(self, request: bytes, answer: Answer | OSError) -> None:
        """Remembers what was accepted, and what nobody knows of, for whoever judges it."""
        if isinstance(answer, OSError) or (answer.status >= 500 and OVERLOADED not in answer.body):
            self._unanswered.append(request)
        elif answer.status == 202:
            self._accepted.append(answer.body)

    async def ask_again(self, service: Connection) -> None:
        """For what was not answered, under the same keys. Raises ConnectionError."""
        again, self._unanswered = self._unanswered, []
        for unanswered in again:
            number = unanswered.rpartition(self._key)[2].partition(b"\r\n")[0]
            request = self._before + number + self._after
            self.answered(request, await service.send(request))

    def requests(self) -> list[Request]:
        """What this user asked for with success: to be registered, what was paid in, and every order."""
        user, cents = str(self.user.id), round(100 * float(self._price))
        ids = [str(orjson.loads(body)["id"]) for body in self._accepted]
        return [
            _granted("register", self.user.login, user, 0, user),
            _granted("deposit", "", user, round(100 * float(_DEPOSIT)), self.user.deposit),
            *(_granted("order", id, user, cents, id) for id in ids),
        ]


def _granted(kind: Kind, marker: str, user: str, amount: int, id: str) -> Request:
    """When is not of interest to the judge."""
    return Request(kind, marker, user, amount, invoked=0.0, returned=0.0, outcome="ok", id=id, sent=1)


async def register_users(
    count: int, ports: Mapping[str, int], done: Callable[[int], None]
) -> list[OrderMaker]:
    """So many users with money on their accounts. A password costs 26 ms of CPU, and twice: keep it bounded.

    `done` is told how many there are. Raises `Refused`.
    """
    users: list[OrderMaker] = []

    async def some(share: int) -> None:
        connections = {name: Connection(port) for name, port in ports.items()}
        for _ in range(share):
            users.append(OrderMaker(await _register(connections)))
            done(len(users))
        for connection in connections.values():
            connection.close()

    shares = [count // _AT_ONCE + (number < count % _AT_ONCE) for number in range(_AT_ONCE)]
    await asyncio.gather(*map(some, shares))
    return users


async def _register(connections: Mapping[str, Connection]) -> User:
    login = f"load-{uuid4().hex}"
    registration = {"login": login, "email": f"{login}@example.com", "password": _PASSWORD}
    service = connections["user"]
    user = _want(201, await service.request("POST", "/users", orjson.dumps(registration), _JSON))
    registered = User(UUID(user.json()["id"]), login, await _token(service, login))
    return replace(registered, deposit=await _fund(connections["billing"], registered))


async def renewed(service: Connection, user: User) -> User:
    """With another token, for load that goes on for longer than one lasts."""
    return replace(user, token=await _token(service, user.login))


async def with_lasting_tokens(makers: Sequence[OrderMaker], port: int) -> None:
    """Gives those another token whose own is not good for a whole measurement any more. Raises `Refused`."""
    service, now = Connection(port), time.monotonic()
    for maker in makers:
        if now - maker.token_since > TOKEN_LASTS_SECONDS:
            maker.is_now(await renewed(service, maker.user))
    service.close()


async def _token(service: Connection, login: str) -> str:
    form = urlencode({"grant_type": "password", "username": login, "password": _PASSWORD}).encode()
    form_type = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = _want(200, await taken(lambda: service.request("POST", "/token", form, form_type)))
    return str(answer.json()["access_token"])


async def taken(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer, once it is no 503 any more: who is overloaded is asked again, for two minutes."""
    for _ in range(_TRIES - 1):
        answer = await ask()
        if answer.status != 503:
            return answer
        await asyncio.sleep(_COME_AGAIN_SECONDS)
    return await ask()


async def _fund(billing: Connection, user: User) -> str:
    deposit = orjson.dumps({"amount": _DEPOSIT})
    async with asyncio.timeout(_ACCOUNT_TIMEOUT_SECONDS):
        while True:
            headers = user.headers | _JSON | {"Idempotency-Key": uuid4().hex}
            answer = await billing.request("POST", "/account/deposits", deposit, headers)
            if answer.status != 404:
                break
            await asyncio.sleep(0.05)  # the account comes into being by itself
    return str(_want(201, answer).json()["id"])


def _want(status: int, answer: Answer) -> Answer:
    if answer.status != status:
        raise Refused(f"expected {status}, got {answer.status}: {answer.body.decode(errors='replace')}")
    return answer
