"""The services in this process, wired in another style: whom they call is this process, too."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
from fastapi import FastAPI
from pydantic import SecretStr

from choreo.chassis.runtime import Runtime, build_of
from choreo.chassis.settings import Settings
from choreo.styles.composition import COLLABORATION, digest_of
from choreo.styles.http.runtime import CallSettings, HttpRuntime
from choreo.styles.notifications.runtime import NotifyingRuntime
from tests.services import SERVICES
from tests.shop import Shop

RUNTIMES: dict[str, type[HttpRuntime[Any]]] = {"http": HttpRuntime, "notifications": NotifyingRuntime}


class Wires(httpx2.AsyncBaseTransport):
    """The way to one service, as long as it runs. A test may cut it off, or see what goes over it."""

    def __init__(self, shop: Shop, service: str) -> None:
        self._shop, self._service = shop, service
        self.reached = asyncio.Event()
        """Somebody called."""
        self.is_silent = False
        """What comes is taken, carried out, and never answered."""
        self.swallows = False
        """What comes is taken, and that is all."""
        self.refuses = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.refuses or self._service not in self._shop.apps:
            raise httpx2.ConnectError("nobody listens there")
        if self.swallows:
            self.reached.set()
            await asyncio.Event().wait()
        answer = await httpx2.ASGITransport(self._shop.apps[self._service]).handle_async_request(request)
        await answer.aread()
        self.reached.set()
        if self.is_silent:
            await asyncio.Event().wait()
        return answer


def wire(shop: Shop, style: str) -> dict[str, Wires]:
    """From now on its services are started in this style. Returns the ways to each."""
    wires = {name: Wires(shop, name) for name in SERVICES}
    if style == COLLABORATION:
        return wires

    class InThisProcess(RUNTIMES[style]):  # type: ignore[misc,valid-type]
        def told(self) -> CallSettings:
            digests = {name: digest_of(f"credential of {name}") for name in SERVICES}
            own = SecretStr(f"credential of {self.service}")
            return CallSettings(service_credential=own, caller_digests=digests)

        def client(self, callee: str) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=wires[callee], base_url="http://localhost")

    def build(name: str) -> Callable[[Settings], tuple[Runtime[Any], FastAPI]]:
        return build_of(name, InThisProcess)

    shop.builds = {name: build(name) for name in SERVICES}
    return wires
