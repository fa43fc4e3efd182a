"""A past for a shop that is young: what its customers left is copied under other names, inside Postgres.

So what is made is as wide and as scattered as what is real. It is in no topic and must be gone before anybody
judges the system.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from choreo.benchmarks.users import User
from choreo.chassis.database.connection import session
from choreo.progress import Progress

PER_CUSTOMER = {
    "user": ("users", "keys"),
    "order": ("keys",),
    "billing": ("accounts", "keys"),
    "notification": ("recipients", "keys"),
}
"""Tables that have a row for each customer, by service."""
PER_ORDER = {
    "order": ("orders", "journal"),
    "billing": ("payments", "ledger", "journal"),
    "notification": ("notifications", "journal"),
}
"""Tables that have rows for each order."""

_COLUMNS = """/* age.columns: those that are not given by the database */
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO' ORDER BY ordinal_position"""

_ROWS = """/* age.rows */ SELECT count(*) FROM {}"""

_A_SHARE_OF_ORDERS = """/* age.flows: of the orders that are through */
SELECT id, correlation_id FROM orders WHERE status <> 'created' ORDER BY created_at DESC LIMIT %s"""

_GONE = """/* age.gone: what these transactions made */ DELETE FROM {} WHERE xmin::text = ANY(%s)"""

_TEMPLATE_ORDERS = 1_000
_AT_ONCE = 250_000
"""Rows of a statement, about."""


@dataclass
class Past:
    """What was made, on one system."""

    owner_urls: Mapping[str, str]

    def __post_init__(self) -> None:
        self._made: dict[tuple[str, str], list[str]] = {}
        """By service and table, the transactions that did it."""
        self._customers = 0

    def add_customers(self, count: int, like: Sequence[User], progress: Progress) -> None:
        """So many more, in every service, with the same ids everywhere."""
        copies = ceil(count / len(like))
        users = [user.id for user in like]
        for service, tables in PER_CUSTOMER.items():
            for table in tables:
                which = sql.SQL(
                    "key = ANY(%s::text[])" if table == "keys" else "{} = ANY(%s::uuid[])"
                ).format(sql.Identifier("id" if table == "users" else "user_id"))
                what = [list(map(str, users)) if table == "keys" else users]
                self._copy(service, table, which, what, len(users), copies, copies, progress)
        self._customers = copies

    def add_orders(self, journal_rows: int, progress: Progress) -> None:
        """Until the journals together have so many rows more, with all that belongs to such orders. They are
        those of the customers that were added, if there are any.
        """
        with self._database("order") as conn:
            pairs = conn.execute(_A_SHARE_OF_ORDERS, [_TEMPLATE_ORDERS]).fetchall()
        orders, flows = [id for id, _ in pairs], [flow for _, flow in pairs]
        inputs = sum(self._count_flows(service, flows) for service in PER_ORDER)
        copies = ceil(journal_rows / inputs)
        for service, tables in PER_ORDER.items():
            for table in tables:
                by_order = table == "ledger"
                which = sql.SQL("order_id = ANY(%s)" if by_order else "correlation_id = ANY(%s)")
                named = orders if by_order else flows
                self._copy(
                    service,
                    table,
                    which,
                    [named],
                    3 * len(named),
                    copies,
                    self._customers or copies,
                    progress,
                )

    def settle(self, progress: Progress) -> None:
        """What the database would do by itself some time later."""
        for service in PER_CUSTOMER:
            progress.stage(f"age: VACUUM of {service}")
            with self._database(service) as conn:
                conn.execute("/* age.settle */ VACUUM (ANALYZE)")

    def remove(self, progress: Progress) -> None:
        for (service, table), transactions in self._made.items():
            progress.stage(f"age: removing what was made in {service}.{table}")
            with self._database(service) as conn:
                conn.execute(sql.SQL(_GONE).format(sql.Identifier(table)), [transactions])
        self._made.clear()

    def journal_rows(self) -> int:
        return sum(self._rows(service, "journal") for service in PER_CUSTOMER)

    def accounts(self) -> int:
        return self._rows("billing", "accounts")

    def _rows(self, service: str, table: str) -> int:
        with self._database(service) as conn:
            return int(_one(conn, sql.SQL(_ROWS).format(sql.Identifier(table))))

    def _count_flows(self, service: str, flows: Collection[UUID]) -> int:
        with self._database(service) as conn:
            query = sql.SQL("/* age.template */ SELECT count(*) FROM journal WHERE correlation_id = ANY(%s)")
            return int(_one(conn, query, [list(flows)]))

    def _copy(
        self,
        service: str,
        table: str,
        which: sql.Composable,
        what: Sequence[Any],
        rows: int,
        copies: int,
        customers: int,
        progress: Progress,
    ) -> None:
        """`rows` is about how many there are to copy; `customers` how many of each customer there are."""
        since, at_once = time.monotonic(), max(1, _AT_ONCE // max(1, rows))
        with self._database(service) as conn:
            columns = conn.execute(_COLUMNS, [table]).fetchall()
            statement = copying(table, columns, which)
            for first in range(1, copies + 1, at_once):
                last = min(copies, first + at_once - 1)
                with conn.transaction():
                    conn.execute(statement, [customers, first, last, *what])
                    made = _one(conn, sql.SQL("SELECT pg_current_xact_id()::xid::text"))
                self._made.setdefault((service, table), []).append(str(made))
                progress.step(f"age: copies of {service}.{table}", last, copies, time.monotonic() - since)

    @contextmanager
    def _database(self, service: str) -> Iterator[psycopg.Connection]:
        with psycopg.connect(**session(self.owner_urls[service]), autocommit=True) as conn:
            yield conn


def copying(table: str, columns: Sequence[tuple[str, str]], which: sql.Composable) -> sql.Composed:
    """Of each row as many as there are numbers between two, with ids of their own. A customer's id is made of
    the number modulo how many customers there are, so that it is the same in every table.
    """
    names = [sql.Identifier(name) for name, _ in columns]
    return sql.SQL(
        "/* age.copy */ INSERT INTO {table} ({names}) SELECT {values} FROM {table} AS it,"
        " (SELECT number, number %% %s::bigint AS customer FROM generate_series(%s::bigint, %s) AS number)"
        " AS copy WHERE {which}"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join(_copied(table, name, kind) for name, kind in columns),
        which=which,
    )


def _copied(table: str, name: str, kind: str) -> sql.Composable:
    column = sql.SQL("it.") + sql.Identifier(name)
    if name in ("user_id", "key") or (table, name) == ("users", "id"):
        id = sql.SQL("md5({}::text || '.' || customer)::uuid").format(column)
        return sql.SQL("({})::text").format(id) if kind == "text" else id
    if kind == "uuid":
        return sql.SQL("md5({}::text || '/' || number)::uuid").format(column)
    if name in ("login", "login_key", "email", "email_key"):
        return sql.SQL("customer || '.' || {}").format(column)
    return column


def _one(conn: psycopg.Connection, query: sql.Composed | sql.SQL, values: Sequence[Any] = ()) -> Any:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return row[0]
