"""A past that is made for a benchmark: as large as asked for, the same in every service, and gone again."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from choreo.benchmarks.age.past import PER_CUSTOMER, PER_ORDER, Past
from choreo.benchmarks.users import User
from choreo.embedded.postgres import Postgres
from choreo.progress import Progress

SOMETHING: Mapping[str, Any] = {
    "uuid": UUID(int=1), "text": "x", "bigint": 1, "integer": 1, "smallint": 1, "boolean": False,
    "jsonb": "{}", "bytea": b"", "timestamp with time zone": datetime(2020, 1, 1, tzinfo=UTC),
}  # fmt: skip
ANN, BOB = (User(uuid4(), name, "token") for name in ("ann", "bob"))

Tables = dict[tuple[str, str], list[dict[str, Any]]]


@pytest.fixture
def urls(postgres: Postgres, templates: dict[str, str]) -> dict[str, str]:
    return {
        service: postgres.create_service(service, database=f"age_{uuid4().hex}", template=template)[0]
        for service, template in templates.items()
    }


def put(url: str, table: str, **values: Any) -> None:
    with psycopg.connect(url) as conn:
        columns = conn.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO'",
            [table],
        ).fetchall()
        row = {name: values.get(name, SOMETHING[kind]) for name, kind in columns}
        conn.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join([sql.Placeholder()] * len(row)),
            ),
            list(row.values()),
        )


def a_customer(urls: Mapping[str, str], user: User) -> None:
    for service in PER_CUSTOMER:
        put(urls[service], "keys", key=str(user.id))
    names = dict.fromkeys(("login", "login_key", "email", "email_key"), user.login)
    put(urls["user"], "users", id=user.id, **names)
    put(urls["billing"], "accounts", user_id=user.id, id=uuid4())
    put(urls["notification"], "recipients", user_id=user.id, login=user.login)


def an_order(urls: Mapping[str, str], user: User) -> None:
    order, flow, entry = uuid4(), uuid4(), uuid4()
    put(urls["order"], "orders", id=order, user_id=user.id, correlation_id=flow, status="confirmed")
    put(urls["billing"], "payments", order_id=order, user_id=user.id, correlation_id=flow)
    for side in ("customer", "shop"):
        put(urls["billing"], "ledger", entry_id=entry, side=side, user_id=user.id, order_id=order)
    put(
        urls["notification"],
        "notifications",
        id=uuid4(),
        user_id=user.id,
        order_id=order,
        correlation_id=flow,
    )
    for service, inputs in {"order": 2, "billing": 1, "notification": 2}.items():
        for _ in range(inputs):
            put(urls[service], "journal", id=uuid4(), key=str(user.id), correlation_id=flow)


def everything(urls: Mapping[str, str]) -> Tables:
    found: Tables = {}
    for service, tables in PER_CUSTOMER.items():
        for table in {*tables, *PER_ORDER.get(service, ())}:
            with psycopg.connect(urls[service], row_factory=psycopg.rows.dict_row) as conn:
                rows = conn.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))).fetchall()
            found[service, table] = sorted(rows, key=str)
    return found


def test_a_past_is_the_same_in_every_service_and_goes_again(urls: dict[str, str]) -> None:
    for user in (ANN, BOB):
        a_customer(urls, user)
        an_order(urls, user)
        an_order(urls, user)
    put(urls["order"], "orders", id=uuid4(), user_id=ANN.id, status="created")
    before = everything(urls)
    past, progress = Past(urls), Progress()
    past.add_customers(6, [ANN, BOB], progress)
    assert past.accounts() == 2 + 6
    users = {row["id"] for row in everything(urls)["user", "users"]}
    for service, table, column in (
        ("billing", "accounts", "user_id"), ("notification", "recipients", "user_id"),
        *((service, "keys", "key") for service in PER_CUSTOMER),
    ):  # fmt: skip
        assert {UUID(str(row[column])) for row in everything(urls)[service, table]} == users
    assert past.journal_rows() == 4 * 5
    past.add_orders(100, progress)
    after = everything(urls)
    assert past.journal_rows() == 4 * 5 + 100
    orders = {row["id"]: row for row in after["order", "orders"] if row["status"] != "created"}
    assert len(orders) == 4 + 20 and {row["user_id"] for row in orders.values()} <= users
    of_the_past = [row for row in orders.values() if row["user_id"] not in (ANN.id, BOB.id)]
    assert len(of_the_past) == 20 and len({row["user_id"] for row in of_the_past}) == 6, "spread over all"
    payments = {row["order_id"]: row for row in after["billing", "payments"]}
    assert payments.keys() == orders.keys()
    for order in orders.values():
        payment = payments[order["id"]]
        assert (payment["user_id"], payment["correlation_id"]) == (order["user_id"], order["correlation_id"])
        legs = [row for row in after["billing", "ledger"] if row["order_id"] == order["id"]]
        assert {leg["side"] for leg in legs} == {"customer", "shop"}
        assert len({leg["entry_id"] for leg in legs}) == 1
        inputs = [
            row for row in after["order", "journal"] if row["correlation_id"] == order["correlation_id"]
        ]
        assert [row["key"] for row in inputs] == 2 * [str(order["user_id"])]
    past.settle(progress)
    past.remove(progress)
    assert everything(urls) == before
