"""What becomes of an order while a part is away, in each style: the part is stopped, and then one looks.

The table of docs/styles.md is this programme's, and the tests hold the same runs against it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx2
import psutil

from choreo.demo.client import Customer
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.progress import Progress
from choreo.styles.composition import has_kafka

T = TypeVar("T")

_WAIT_SECONDS = 2
"""Which the client prefers to wait."""
_RECOVERY_TIMEOUT_SECONDS = 60.0
_LOOK_AGAIN = 0.05


@dataclass(frozen=True)
class Observed:
    """One order that came while something was not there."""

    answer: str
    """Status code and the order's status; of a request that was cut off, what the client saw."""
    told: int
    """Notifications there were before the part was back."""
    afterwards: str
    payments: int
    notifications: int

    @property
    def was_done_once(self) -> bool:
        return (self.afterwards, self.payments, self.notifications) == ("confirmed", 1, 1)

    def __str__(self) -> str:
        later = "" if self.answer.endswith(self.afterwards) else f"; {self.afterwards} when it is back"
        return (
            f"{self.answer}{later}; told {'at once' if self.told else 'when it is back'}; "
            f"paid {_times(self.payments)}, told {_times(self.notifications)}"
        )


@dataclass(frozen=True)
class Stage:
    system: ThrowawaySystem
    services: Mapping[str, httpx2.AsyncClient]

    def send(self, part: str, number: signal.Signals) -> None:
        process = psutil.Process(self.system.run_file["pids"][part])
        process.send_signal(number)

    async def customer(self) -> Customer:
        """Somebody new, who has 400.00."""
        customer = await Customer.register(self.services)
        await until(customer.account, lambda answer: answer.status_code == 200)
        (await customer.deposit("400.00")).raise_for_status()
        return customer

    async def all_ready(self) -> None:
        for service in self.services.values():
            await until(partial(_ready, service), bool)


Outage = Callable[[Stage, Customer], Awaitable[Observed]]


def _without(part: str) -> Outage:
    """It is killed, and its supervisor may not start it again before the order was placed."""

    async def placed(stage: Stage, ada: Customer) -> Observed:
        supervisor = psutil.Process(stage.system.supervisor_pid)
        supervisor.suspend()
        try:
            stage.send(part, signal.SIGKILL)
            answer = await ada.order("100.00", wait=_WAIT_SECONDS)
            told = await _told_so_far(ada) if part != "notification" else 0
        finally:
            supervisor.resume()
        return await _afterwards(ada, _answer(answer), told)

    return placed


def _silent(part: str) -> Outage:
    """It is there, takes what comes, and answers nobody."""

    async def placed(stage: Stage, ada: Customer) -> Observed:
        stage.send(part, signal.SIGSTOP)
        try:
            answer = await ada.order("100.00", wait=_WAIT_SECONDS)
            told = await _told_so_far(ada)
        finally:
            stage.send(part, signal.SIGCONT)
        return await _afterwards(ada, _answer(answer), told)

    return placed


async def _caller_killed(stage: Stage, ada: Customer) -> Observed:
    """The order service, once the money is taken; nobody could be told, as notification does not answer."""
    stage.send("notification", signal.SIGSTOP)
    try:
        ordering = asyncio.ensure_future(ada.order("100.00"))
        await until(ada.account, lambda answer: answer.json().get("balance") == "300.00")
        stage.send("order", signal.SIGKILL)
        try:
            answer = _answer(await ordering)
        except httpx2.TransportError:
            answer = "connection lost"
    finally:
        stage.send("notification", signal.SIGCONT)
    return await _afterwards(ada, answer, 0)


OUTAGES: Mapping[str, Outage] = {
    "Kafka is down": _without("kafka"),
    "billing is down": _without("billing"),
    "notification is down": _without("notification"),
    "billing takes the request and never answers": _silent("billing"),
    "the order service is killed between two calls": _caller_killed,
}


async def look(style: str, progress: Progress) -> dict[str, Observed]:
    """By outage; without those of what this style does not have."""
    found = {}
    with ThrowawaySystem(style=style) as system:
        system.start()
        async with staged(system) as stage:
            for name, outage in OUTAGES.items():
                if outage is OUTAGES["Kafka is down"] and not has_kafka(style):
                    continue
                progress.stage(f"{style}: {name}")
                await stage.all_ready()
                found[name] = await outage(stage, await stage.customer())
    return found


@asynccontextmanager
async def staged(system: ThrowawaySystem) -> AsyncIterator[Stage]:
    """With clients to each of its services."""
    async with AsyncExitStack() as stack:
        services = {
            name: await stack.enter_async_context(
                httpx2.AsyncClient(base_url=system.run_file["urls"][name], timeout=30, trust_env=False)
            )
            for name in system.run_file["ports"]
        }
        yield Stage(system, services)


async def _afterwards(ada: Customer, answer: str, told: int) -> Observed:
    """Once it is decided and told."""
    (order,) = await until(ada.orders, lambda found: found and found[0]["status"] != "created")
    await until(ada.notifications, lambda found: found and all(one["status"] == "sent" for one in found))
    entries = (await ada.get("billing", "/account/entries")).json()["items"]
    payments = sum(entry["kind"] == "payment" for entry in entries)
    return Observed(answer, told, order["status"], payments, len(await ada.notifications()))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


async def _told_so_far(ada: Customer) -> int:
    return len(await ada.notifications())


def _answer(answer: httpx2.Response) -> str:
    return f"{answer.status_code} {answer.json()['status']}"


async def _ready(service: httpx2.AsyncClient) -> bool:
    return (await service.get("/health/ready")).status_code == 200


async def until(look: Callable[[], Awaitable[T]], enough: Callable[[T], Any]) -> T:
    """What is seen once it is enough. A service that is just starting may not answer yet."""
    async with asyncio.timeout(_RECOVERY_TIMEOUT_SECONDS):
        while True:
            try:
                if enough(seen := await look()):
                    return seen
            except (httpx2.HTTPError, ValueError):
                pass
            await asyncio.sleep(_LOOK_AGAIN)
