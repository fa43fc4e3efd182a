"""The rows of whoever is measured, read by the same statements: all name their tables and columns alike."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import psycopg

from choreo.benchmarks.peers.checker import Leg, Order, Rows
from choreo.chassis.database.connection import session

_PROGRESS = {
    "order": "/* peers.orders */ SELECT count(*), count(*) FILTER (WHERE status = 'created') FROM orders",
    "notification": "/* peers.notified */ SELECT count(*), count(DISTINCT order_id) FROM notifications",
}

_NOTIFIED = """/* peers.notified_at: when the first notification of each was committed, since the epoch */
SELECT order_id, min(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float8 FROM notifications
WHERE order_id = ANY(%s) GROUP BY order_id"""

_ORDERS = "/* peers.orders */ SELECT id, price, status FROM orders"
_PAYMENTS = "/* peers.payments */ SELECT order_id, outcome FROM payments"
_LEDGER = "/* peers.ledger */ SELECT entry_id, side, user_id, kind, amount, order_id FROM ledger"
_BALANCES = "/* peers.balances */ SELECT user_id, balance FROM accounts"
_NOTIFICATIONS = "/* peers.notifications */ SELECT order_id FROM notifications"


@dataclass(frozen=True, slots=True)
class Progress:
    """What differs between two of these was done in between."""

    orders: int
    undecided: int
    notifications: int
    notified: int
    """Orders with a notification."""

    @property
    def finished(self) -> int:
        """Orders whose outcome is stored with them and which have a notification."""
        return min(self.orders - self.undecided, self.notified)


class Tables:
    """Use as a context. The databases may be one. Postgres must have run with `track_commit_timestamp`."""

    def __init__(self, order_url: str, billing_url: str, notification_url: str) -> None:
        self._urls = {"order": order_url, "billing": billing_url, "notification": notification_url}
        self._connections: dict[str, psycopg.AsyncConnection] = {}

    async def __aenter__(self) -> Self:
        for name, url in self._urls.items():
            self._connections[name] = await psycopg.AsyncConnection.connect(**session(url), autocommit=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def progress(self) -> Progress:
        (orders,) = await self._rows("order", _PROGRESS["order"])
        (notifications,) = await self._rows("notification", _PROGRESS["notification"])
        return Progress(*orders, *notifications)

    async def notified_at(self, orders: Collection[UUID]) -> dict[UUID, float]:
        """Lacks those that have no notification."""
        return dict(await self._rows("notification", _NOTIFIED, [list(orders)]))

    async def read(self) -> Rows:
        return Rows(
            [Order(*row) for row in await self._rows("order", _ORDERS)],
            await self._rows("billing", _PAYMENTS),
            [Leg(*row) for row in await self._rows("billing", _LEDGER)],
            await self._rows("billing", _BALANCES),
            [order for (order,) in await self._rows("notification", _NOTIFICATIONS)],
        )

    async def _rows(self, database: str, statement: str, values: Any = None) -> list[Any]:
        return await (await self._connections[database].execute(statement.encode(), values)).fetchall()
