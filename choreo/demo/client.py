"""A customer of the shop, as any client would be one: over HTTP, knowing only the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx2

SHOP = ("user", "order", "billing", "notification")
"""Whom a customer asks, and whose facts a story tells of. Others may be there, and decide what they will."""
PASSWORD = "correct horse battery"
Json = dict[str, Any]


@dataclass(frozen=True)
class Customer:
    """A registered user with a token. Methods return the answer as it came; nothing is raised."""

    services: Mapping[str, httpx2.AsyncClient]
    """By name."""
    id: UUID
    login: str
    token: str

    @staticmethod
    async def register(services: Mapping[str, httpx2.AsyncClient], login: str | None = None) -> "Customer":
        """A new user, with a token. Raises httpx2.HTTPStatusError where that is refused."""
        login = login or f"ada-{uuid4().hex[:12]}"
        answer = await services["user"].post("/users", json=registration(login))
        user = answer.raise_for_status().json()
        return Customer(services, UUID(user["id"]), login, await Customer.log_in(services, login))

    @staticmethod
    async def log_in(services: Mapping[str, httpx2.AsyncClient], login: str) -> str:
        """A token. Raises httpx2.HTTPStatusError where that is refused."""
        form = {"grant_type": "password", "username": login, "password": PASSWORD}
        answer = await services["user"].post("/token", data=form)
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    async def get(self, service: str, path: str, **query: Any) -> httpx2.Response:
        return await self.services[service].get(path, params=query, headers=self._headers())

    async def post(
        self,
        service: str,
        path: str,
        body: Json,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """`key` is the idempotency key; a new one if it is not given."""
        named = {"Idempotency-Key": key or uuid4().hex, **(headers or {})}
        return await self.services[service].post(path, json=body, headers=self._headers() | named)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def account(self) -> httpx2.Response:
        return await self.get("billing", "/account")

    async def deposit(self, amount: str, key: str | None = None) -> httpx2.Response:
        return await self.post("billing", "/account/deposits", {"amount": amount}, key)

    async def withdraw(self, amount: str, key: str | None = None) -> httpx2.Response:
        return await self.post("billing", "/account/withdrawals", {"amount": amount}, key)

    async def order(self, price: str, *, wait: int = 0, key: str | None = None) -> httpx2.Response:
        """With `wait`, answered once the order is decided, at the latest after so many seconds."""
        prefer = {"Prefer": f"wait={wait}"} if wait else {}
        return await self.post("order", "/orders", {"price": price}, key, prefer)

    async def cancel(self, order_id: str, key: str | None = None) -> httpx2.Response:
        return await self.post("order", f"/orders/{order_id}/cancel", {}, key)

    async def orders(self) -> list[Json]:
        """Newest first."""
        return list((await self.get("order", "/orders")).raise_for_status().json()["items"])

    async def notifications(self) -> list[Json]:
        """Newest first."""
        return list((await self.get("notification", "/notifications")).raise_for_status().json()["items"])


def registration(login: str) -> Json:
    return {"login": login, "email": f"{login}@example.com", "password": PASSWORD}
