"""What the comparison reads is there, under one name, in the shop's databases and in a peer's."""

import ast
from uuid import uuid4

import psycopg
import pytest

from choreo.benchmarks.peers.checker import Rows, Verdict, check
from choreo.benchmarks.peers.environment import COMMON
from choreo.benchmarks.peers.tables import Progress, Tables
from choreo.embedded.postgres import Postgres

NOTHING = Rows([], [], [], [], [])


@pytest.fixture
def peer_url(postgres: Postgres) -> str:
    url, _ = postgres.create_service("peer", database=f"peer_{uuid4().hex}")
    with psycopg.connect(url) as conn:
        conn.execute((COMMON / "schema.sql").read_bytes())
    return url


async def test_the_shop_has_what_is_read(postgres: Postgres, templates: dict[str, str]) -> None:
    urls = {name: postgres.create_service(name, database=database)[0] for name, database in templates.items()}
    async with Tables(urls["order"], urls["billing"], urls["notification"]) as tables:
        assert await tables.read() == NOTHING
        assert await tables.progress() == Progress(0, 0, 0, 0)
        assert await tables.notified_at([uuid4()]) == {}


async def test_a_peer_pays_once_and_only_what_is_there(peer_url: str) -> None:
    statements = _statements()
    user, cheap, dear = (str(uuid4()) for _ in range(3))
    with psycopg.connect(peer_url) as conn:
        conn.execute("INSERT INTO accounts VALUES (%s, 0)", [user])
        for order in ({"id": cheap, "user_id": user, "price": 0}, {"id": dear, "user_id": user, "price": 1}):
            conn.execute(statements["STORE_ORDER"], order)
            paid = conn.execute(statements["PAY"], order).fetchone()
            assert paid is not None
            decided = order | {"outcome": paid[0]}
            conn.execute(statements["SETTLE"], decided)
            conn.execute(statements["NOTIFY"], decided)
            step = {"step": "pay", "id": order["id"]}
            assert [conn.execute(statements["FIRST_TIME"], step).rowcount for _ in range(2)] == [1, 0]
    async with Tables(peer_url, peer_url, peer_url) as tables:
        rows = await tables.read()
        assert check(rows, ()) == Verdict(2, [], [], [])
        assert {str(order): outcome for order, outcome in rows.payments} == {
            cheap: "confirmed",
            dear: "rejected",
        }
        assert (await tables.progress()).finished == 2
        assert len(await tables.notified_at([order.id for order in rows.orders])) == 2


def _statements() -> dict[str, bytes]:
    """Of the module all peers share, which imports what only they have."""
    parsed = ast.parse((COMMON / "shop.py").read_text())
    named = [
        one for one in parsed.body if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)
    ]
    return {ast.unparse(one.targets[0]): str(ast.literal_eval(one.value)).encode() for one in named}
