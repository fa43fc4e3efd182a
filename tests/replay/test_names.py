"""Names that were two and are one now: whose they are, what a doctor says, and a replay of how it came."""

from functools import partial
from uuid import uuid4

import psycopg
import pytest

from choreo.chassis.database.migrate import migrate
from choreo.demo.client import PASSWORD, registration
from choreo.operations.reading.checkup import examine
from choreo.replay.sources.live import open_live
from choreo.replay.verify.report import report_on
from tests.choreography.ending import caught_up
from tests.replay.story import nobody
from tests.shop import Shop
from user_service import api, queries
from user_service.commands import Register

COMPOSED, DECOMPOSED = "jos\u00e9", "jose\u0301"

_TWO_MAY_SHARE_A_KEY = """
ALTER TABLE users DROP CONSTRAINT users_login_key_key, DROP CONSTRAINT users_email_key_key"""

_BEFORE = """
UPDATE users SET login_key = lower(login), email_key = lower(email);
ALTER TABLE users ADD UNIQUE (login_key), ADD UNIQUE (email_key);
UPDATE journal SET command = command - 'casefold_alone';
DROP TABLE known_pairs;
UPDATE alembic_version SET version_num = 'user_0001' WHERE version_num LIKE 'user_%'
"""


def change(shop: Shop, statement: str) -> None:
    with psycopg.connect(shop.owner_urls["user"]) as owner:
        owner.execute(statement.encode())


async def test_the_older_has_the_name_and_old_decisions_are_what_they_were(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = closed_shop
    change(shop, _TWO_MAY_SHARE_A_KEY)
    await shop.start("user")

    async def register(login: str, password: str = PASSWORD) -> int:
        body = registration(login) | {"email": f"{uuid4().hex}@example.com"}
        answer = await shop.clients["user"].post("/users", json=body | {"password": password})
        return answer.status_code

    with monkeypatch.context() as before:
        before.setattr(queries, "taken", nobody)
        before.setattr(api, "Register", lambda **it: Register(**it | {"casefold_alone": True}))
        assert await register(COMPOSED) == 201
        assert await register(DECOMPOSED, "another password") == 201
        assert await register(COMPOSED.upper()) == 409
        assert await register("ada") == 201
    await caught_up(shop)
    await shop.stop()
    owner_url = shop.owner_urls["user"]
    change(shop, _BEFORE)
    migrate("user", owner_url, "user")
    assert shop.rows("user", "SELECT login, login_key FROM users ORDER BY created_at") == [
        (COMPOSED, COMPOSED),
        (DECOMPOSED, COMPOSED),
        ("ada", "ada"),
    ]

    await shop.start("user")
    ids = [str(id) for (id,) in shop.rows("user", "SELECT id FROM users ORDER BY created_at")]
    assert await register(DECOMPOSED) == 409
    log_in = partial(shop.clients["user"].post, "/token")
    for login in (COMPOSED, DECOMPOSED):
        form = {"grant_type": "password", "username": login}
        assert (await log_in(data=form | {"password": PASSWORD})).status_code == 200
        assert (await log_in(data=form | {"password": "another password"})).status_code == 401
    (finding,) = [
        found for found in await examine(shop.installation) if (found.about, found.check) == ("user", "names")
    ]
    assert finding.needs_a_person
    assert f"login: {ids[0]} has it, not {ids[1]}" in finding.says and ids[2] not in finding.says

    await caught_up(shop)
    await shop.stop()
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        report = await report_on(source)
    assert (report.findings, report.exit_code) == ([], 0)
    assert report.counts["user rows"] >= 3
