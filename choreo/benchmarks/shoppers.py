"""Customers who do all there is to do, for a log with a bit of everything: a closed loop."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from uuid import uuid4

import orjson

from choreo.benchmarks.connection import Answer, Connection
from choreo.benchmarks.users import TOKEN_LASTS_SECONDS, Refused, User, renewed, taken

SHOPPERS = 32
_BASKET = 7
"""Orders a customer places one after the other; then one more, and waits until that is decided."""
_WAIT = 30
_TOO_DEAR = 0.08
"""This share of the orders costs more than anybody has."""
_CHANGES_MIND = 0.4
"""This share of the baskets loses its last order at once, and as many an order that is decided."""
_PAYS_IN = 0.2
_PRICES = range(1, 40_00)
_DEAR = 900_000_000_00


async def shop(users: Sequence[User], ports: Mapping[str, int], enough: Callable[[], bool]) -> None:
    """Returns when it is enough and every basket decided. Raises `Refused` or ConnectionError.

    None of them has more than a basket on its way, so what is accepted is decided soon.
    """
    async with asyncio.TaskGroup() as tasks:
        for number in range(SHOPPERS):
            tasks.create_task(_shopper(number, users[number::SHOPPERS], ports, enough))


async def _shopper(
    number: int, users: Sequence[User], ports: Mapping[str, int], enough: Callable[[], bool]
) -> None:
    """As one of these users or another."""
    chance, services = Random(number), {name: Connection(port) for name, port in ports.items()}
    renew_at = 0.0
    while users and not enough():
        if time.monotonic() >= renew_at:
            users = [await renewed(services["user"], user) for user in users]
            renew_at = time.monotonic() + TOKEN_LASTS_SECONDS
        await _fill_a_basket(services, chance.choice(users), chance)
    for connection in services.values():
        connection.close()


async def place_order(order: Connection, user: User, price: int, wait: int = 0) -> str:
    """Its id. The price is in cents; with `wait`, once it is decided or so many seconds are over."""
    body = {"price": _decimal(price)}
    prefer = {"Prefer": f"wait={wait}"} if wait else {}
    return str((await _post(order, user, "/orders", body, 201, 202, **prefer)).json()["id"])


async def _fill_a_basket(services: Mapping[str, Connection], user: User, chance: Random) -> None:
    orders = []
    for _ in range(_BASKET):
        price = _DEAR if chance.random() < _TOO_DEAR else chance.choice(_PRICES)
        orders.append(await place_order(services["order"], user, price))
    if chance.random() < _CHANGES_MIND:
        await _cancel(services["order"], user, orders.pop())
    # One customer's orders are decided in turn: when this one is, all are.
    await place_order(services["order"], user, chance.choice(_PRICES), wait=_WAIT)
    if chance.random() < _CHANGES_MIND:
        await _cancel(services["order"], user, chance.choice(orders))
    if chance.random() < _PAYS_IN:
        amount = {"amount": _decimal(chance.choice(_PRICES))}
        await _post(services["billing"], user, "/account/deposits", amount, 201)


async def _cancel(order: Connection, user: User, id: str) -> None:
    """Which is refused if it was rejected."""
    await _post(order, user, f"/orders/{id}/cancel", {}, 202, 409)


async def _post(
    connection: Connection, user: User, path: str, body: Mapping[str, str], *wanted: int, **more: str
) -> Answer:
    headers = user.headers | {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex} | more
    answer = await taken(lambda: connection.request("POST", path, orjson.dumps(body), headers))
    if answer.status in wanted:
        return answer
    raise Refused(f"{path}: got {answer.status}: {answer.body.decode(errors='replace')}")


def _decimal(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
