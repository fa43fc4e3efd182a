"""Customers who register, pay in, order and cancel, and what they know of it afterwards.

Like those of `choreo.chaos.load`, which come over HTTP: what was not answered is asked again under the same
key, at any process, and some never ask twice.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID

from choreo.chaos.history import Kind, Request
from choreo.chassis.transaction.inputs import Failed, Reply, Unavailable
from choreo.message.envelope import Cause, derived_id
from choreo.simulation.database import NOT_TEXT
from choreo.simulation.replica import Replica

_TIMEOUT_SECONDS = 6.0
_PATIENCE_SECONDS = 20.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 3.2
_IMPATIENT = 0.1
_TOO_DEAR = 0.3
_CANCELS = 0.5
_BESIDE = 0.7
_PAYS_IN_AGAIN = 0.3
_TWICE = 0.1
"""This share of requests comes twice at once, at any processes. Who is told that something is not there yet
does not know what the other one was told.
"""
_AT_ONCE = 0.5
"""This share does not wait for one order's answer before it places the next."""

_COMMANDS = {"register": "Register", "deposit": "Deposit", "order": "PlaceOrder", "cancel": "CancelOrder"}
_SERVICES = {"register": "user", "deposit": "billing", "order": "order", "cancel": "order"}


class Customer:
    def __init__(
        self,
        name: str,
        login: str,
        is_known: bool,
        orders: int,
        replicas: Callable[[str], list[Replica]],
        chance: Random,
        requests: list[Request],
        tell: Callable[[str], None],
        breach: Callable[[str], None],
        beside: Callable[[Replica], None],
    ) -> None:
        """`is_known`: he has registered and paid in before. `beside` is called now and then, with whom an
        order is about to be asked of.
        """
        self._name = name
        self._login = login
        self._id: UUID = derived_id("customer", name)
        self._is_known = is_known
        self._orders = orders
        self._replicas = replicas
        self._chance = chance
        self._requests = requests
        self._tell = tell
        self._breach = breach
        self._beside = beside

    async def run(self) -> None:
        if not self._is_known and not await self._has_registered():
            return
        paying_in = asyncio.ensure_future(self._pay_in())
        if self._chance.random() < _AT_ONCE:
            await asyncio.gather(*(self._order(number) for number in range(self._orders)))
        else:
            for number in range(self._orders):
                await self._order(number)
        await paying_in

    async def _has_registered(self) -> bool:
        login = self._login
        request = self._begin("register", login, 0)
        await self._ask(request, login=login, email=f"{login}@example.com", casefold_alone=False)
        return request.outcome == "ok"

    async def _pay_in(self) -> None:
        """Another amount than before: nothing else tells the judge which entry is of which request."""
        if not self._is_known:
            amounts = 5_00, 10_00
        elif self._chance.random() < _PAYS_IN_AGAIN:
            amounts = 2_00, 4_00
        else:
            return
        amount = self._chance.choice(amounts)
        await self._ask(self._begin("deposit", str(amount), amount), amount=amount)

    async def _order(self, number: int) -> None:
        price = 90_00 if self._chance.random() < _TOO_DEAR else self._chance.choice((3_00, 5_00, 10_00))
        order = self._begin("order", f"{self._name} order {number}", price)
        await self._ask(order, price=price, description=order.marker)
        if order.id and self._chance.random() < _CANCELS:
            cancel = self._begin("cancel", order.id, 0)
            await self._ask(cancel, order_id=UUID(order.id))

    def _begin(self, kind: Kind, marker: str, amount: int) -> Request:
        now = asyncio.get_running_loop().time()
        request = Request(kind, marker, str(self._id), amount, invoked=now)
        self._requests.append(request)
        return request

    async def _ask(self, request: Request, **values: Any) -> None:
        """Fills in what became of it."""
        loop = asyncio.get_running_loop()
        patience = 0.0 if self._chance.random() < _IMPATIENT else _PATIENCE_SECONDS
        until, pause, lost = loop.time() + patience, _FIRST_PAUSE_SECONDS, False
        while True:
            request.sent += 1
            cause = Cause.root(self._command_id(request))
            if request.kind == "order":
                values["order_id"] = derived_id("order", cause.id)
            twice = self._chance.random() < _TWICE
            try:
                reply = await self._sent(request.kind, twice, cause=cause, user_id=self._id, **values)
            except (ConnectionError, TimeoutError, Unavailable, Failed) as error:
                self._tell(f"{request.kind} {request.marker}: {type(error).__name__}")
                lost = True
                if isinstance(error, Failed) and NOT_TEXT in str(error):
                    self._breach(f"{request.kind} {request.marker} is refused for what somebody else wanted")
            else:
                self._tell(f"{request.kind} {request.marker}: {reply.status} {reply.body.decode()}")
                request.status = reply.status
                if reply.status == 201:
                    request.outcome, request.id = "ok", reply.body.decode()
                if reply.status != 404:  # that is not there yet, and asked for again
                    break
                lost = lost or twice
            if loop.time() > until:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        if request.outcome != "ok" and not lost:
            request.outcome = "failed"
        request.returned = loop.time()

    def _command_id(self, request: Request) -> UUID:
        """The same however often it is asked."""
        return derived_id("command", self._name, request.kind, request.marker)

    async def _sent(self, kind: Kind, twice: bool, **values: Any) -> Reply:
        replicas = self._replicas(_SERVICES[kind])
        if not replicas:
            raise ConnectionError("nobody listens")
        replica = self._chance.choice(replicas)
        command = replica.command(_COMMANDS[kind], **values)
        if kind == "order" and self._chance.random() < _BESIDE:
            self._beside(replica)
        fingerprint = repr(sorted(values.items(), key=str)).encode()
        if twice:
            self._chance.choice(replicas).ask(command, fingerprint)
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await replica.ask(command, fingerprint)
