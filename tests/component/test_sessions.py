"""A database whose server, or owner, is not on UTC: what leaves the shop is in UTC all the same."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest_asyncio
from sqlalchemy import text

from choreo.chassis.database.connection import make_engine, raw_connection, session
from choreo.demo.client import Customer, registration
from choreo.embedded.postgres import Postgres
from events.order import OrderCreated
from tests.component.alone import Alone, a_process
from tests.databases import a_database

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def users(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    """On a database in India, where days come before months."""
    with a_database("user", postgres, templates) as database:
        with psycopg.connect(database.owner_url, autocommit=True) as owner:
            for setting in ("timezone = 'Asia/Kolkata'", "datestyle = 'German'"):
                owner.execute(f"ALTER DATABASE {database.name} SET {setting}".encode())
        async with a_process("user", database) as process:
            yield process


async def test_times_in_answers_are_in_utc(users: Alone) -> None:
    answer = await users.http.post("/users", json=registration(f"ada-{uuid4().hex[:12]}"))
    created = answer.json()["created_at"]
    ada: Customer = await users.customer(UUID(answer.json()["id"]))
    assert (await ada.get("user", "/users/me")).json()["created_at"] == created
    assert created.endswith("Z")


async def test_every_kind_of_session_is_in_utc_and_keeps_the_options_of_its_url(users: Alone) -> None:
    url = users.database.runtime_url + "&options=-c%20geqo%3Doff&connect_timeout=9"
    shown = b"SELECT current_setting('timezone'), current_setting('datestyle'), current_setting('geqo')"
    with psycopg.connect(**session(url, connect_timeout=5)) as conn:
        assert conn.execute(shown).fetchone() == ("UTC", "ISO, YMD", "off")
    engine = make_engine(url)
    async with raw_connection(engine) as driver:
        assert await (await driver.execute(shown)).fetchone() == ("UTC", "ISO, YMD", "off")
    async with engine.connect() as pooled:
        assert (await pooled.execute(text("SELECT timestamptz '2030-01-01 12:00Z'"))).scalar() == NOON
    await engine.dispose()


def test_a_fact_is_in_utc_whichever_zone_its_times_were_written_in() -> None:
    told = {"order_id": str(uuid4()), "user_id": str(uuid4()), "price": 1, "description": None}
    there = OrderCreated.model_validate_json(json.dumps(told | {"decide_by": "2030-01-01T17:30:00+05:30"}))
    assert there.decide_by == NOON and there.decide_by.tzinfo is UTC
