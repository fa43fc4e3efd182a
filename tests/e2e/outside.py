"""A client that knows the contract and nothing of the code: plain HTTP, a plain Kafka consumer."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2
from confluent_kafka import Consumer, Message, TopicPartition

T = TypeVar("T")
Json = dict[str, Any]

PATIENCE = 60.0
"""Seconds for anything that comes by itself. A machine with much else to do needs them."""
PASSWORD = "correct horse battery"
OFFSET = {"user": 1, "order": 2, "billing": 3, "notification": 4}
TOPICS = ("user-events", "billing-events", "order-events", "notification-events")


def until(look: Callable[[], T], enough: Callable[[T], object]) -> T:
    """Looks again and again until it is enough."""
    deadline = time.monotonic() + PATIENCE
    while not enough(seen := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {seen}"
        time.sleep(0.02)
    return seen


@dataclass(frozen=True)
class Shop:
    """One running system, as its users see it."""

    port_base: int
    http: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=40, trust_env=False))

    def ask(self, method: str, service: str, path: str, **request: Any) -> httpx2.Response:
        return self.http.request(method, self.url(service, path), **request)

    def url(self, service: str, path: str) -> str:
        return f"http://127.0.0.1:{self.port_base + OFFSET[service]}{path}"

    def user(self) -> "User":
        """Somebody new, with a token."""
        login = f"ada-{uuid4().hex[:12]}"
        answer = self.ask("POST", "user", "/users", json=registration(login))
        assert answer.status_code == 201, answer.text
        token = self.token(login).json()["access_token"]
        return User(self, answer.json()["id"], login, token, answer.headers["Flow-Id"])

    def customer(self, balance: str = "400.00") -> "User":
        """Somebody new, with an account that holds so much."""
        user = self.user()
        until(lambda: user.get("/account"), lambda answer: answer.status_code == 200)
        if balance != "0.00":
            assert user.deposit(balance).status_code == 201
        return user

    def token(self, username: str, password: str = PASSWORD) -> httpx2.Response:
        form = {"grant_type": "password", "username": username, "password": password}
        return self.ask("POST", "user", "/token", data=form)


def registration(login: str) -> Json:
    return {"login": login, "email": f"{login}@example.com", "password": PASSWORD}


def service_of(path: str) -> str:
    """By the first word of a path; the contract gives each to one service."""
    word = path.split("/")[1].split("?")[0]
    return {"account": "billing", "orders": "order", "notifications": "notification"}.get(word, "user")


@dataclass(frozen=True)
class User:
    shop: Shop
    id: str
    login: str
    token: str
    flow: str
    """Of the registration."""

    def ask(self, method: str, path: str, headers: Mapping[str, str] = {}, **more: Any) -> httpx2.Response:
        named = {"Authorization": f"Bearer {self.token}", **headers}
        return self.shop.ask(method, service_of(path), path, headers=named, **more)

    def get(self, path: str, **query: Any) -> httpx2.Response:
        return self.ask("GET", path, params=query or None)  # none at all would take away the path's own

    def post(
        self, path: str, body: Json | None = None, key: str | None = None, **headers: str
    ) -> httpx2.Response:
        """With an idempotency key, a new one if none is given."""
        return self.ask("POST", path, {"Idempotency-Key": key or uuid4().hex, **headers}, json=body)

    def deposit(self, amount: object, key: str | None = None) -> httpx2.Response:
        return self.post("/account/deposits", {"amount": amount}, key)

    def withdraw(self, amount: object, key: str | None = None) -> httpx2.Response:
        return self.post("/account/withdrawals", {"amount": amount}, key)

    def order(self, price: object, key: str | None = None, wait: int = 30) -> httpx2.Response:
        return self.post("/orders", {"price": price}, key, Prefer=f"wait={wait}")

    def cancel(self, order: str, key: str | None = None) -> httpx2.Response:
        return self.post(f"/orders/{order}/cancel", None, key)

    def balance(self) -> str:
        return str(self.get("/account").json()["balance"])

    def items(self, path: str) -> list[Json]:
        return list(self.get(path).json()["items"])

    def notified(self, count: int) -> list[Json]:
        """The notifications, newest first, once there are so many and all are sent."""
        return until(
            lambda: self.items("/notifications"),
            lambda found: len(found) >= count and all(one["status"] == "sent" for one in found),
        )


@dataclass(frozen=True)
class Event:
    """A record as it lies in Kafka."""

    topic: str
    key: str
    headers: dict[str, str]
    raw: bytes

    @cached_property
    def data(self) -> Json:
        return dict(json.loads(self.raw))

    @property
    def type(self) -> str:
        return self.headers["ce_type"]

    @property
    def flow(self) -> str:
        return self.headers["ce_correlationid"]


def observer(home: Path) -> dict[str, str]:
    """How librdkafka gets into Kafka with the credential that lies there for checkers."""
    told = json.loads((home / "secrets" / "observer.json").read_text())["kafka"]
    return {
        "bootstrap.servers": told["bootstrap"],
        "security.protocol": told["security.protocol"],
        "sasl.mechanism": told["sasl.mechanism"],
        "sasl.username": told["username"],
        "sasl.password": told["password"],
    }


class Log:
    """All topics from their beginning, as the observer. Joins no group and commits nothing."""

    def __init__(self, access: Mapping[str, str]) -> None:
        self._seen: list[Event] = []
        self._consumer = Consumer(
            {
                **access,
                "group.id": "nobody",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
        found = self._consumer.list_topics(timeout=PATIENCE).topics
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in TOPICS for number in found[topic].partitions]
        )

    def close(self) -> None:
        self._consumer.close()

    def until(self, wanted: Callable[[Event], bool], count: int = 1) -> list[Event]:
        """The events that are wanted, once there are so many, in the order they were read."""
        return until(lambda: [event for event in self._read() if wanted(event)], lambda it: len(it) >= count)

    def _read(self) -> list[Event]:
        self._seen += [_event(message) for message in self._new()]
        return self._seen

    def _new(self) -> Iterator[Message]:
        for message in self._consumer.consume(500, timeout=0.05):
            assert message.error() is None, message.error()
            yield message


def _event(message: Message) -> Event:
    pairs = [(name, (value or b"").decode()) for name, value in message.headers() or []]
    headers = dict(pairs)
    assert len(headers) == len(pairs), f"a header twice: {pairs}"
    return Event(message.topic() or "", (message.key() or b"").decode(), headers, message.value() or b"")
