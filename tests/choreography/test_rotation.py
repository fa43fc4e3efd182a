"""A signing key gives way to another, and nobody who asks or is asked for a token notices."""

import asyncio
import time
from datetime import timedelta

import jwt
import pytest
from typer.testing import CliRunner

from choreo.chassis.http import auth
from choreo.chassis.transaction import inputs
from choreo.cli import main as cli
from choreo.cli.running import keys
from choreo.demo.client import PASSWORD, Customer
from choreo.errors import Unavailable
from choreo.operations.acting.rotation import rotated
from tests.locks import held
from tests.shop import PATIENCE, Shop, eventually
from user_service import signing


@pytest.fixture
async def rotating(closed_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """All services. A key settles at once, and old ones are looked for all the time."""
    monkeypatch.setattr(signing, "SETTLED", timedelta(0))
    monkeypatch.setattr(signing, "_REMEMBERED", timedelta(0))
    monkeypatch.setattr(signing, "_LOOK_AGAIN", 0.1)
    await closed_shop.start("user", "order", "billing", "notification")
    return closed_shop


def kid_of(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


async def token_of(shop: Shop, customer: Customer) -> str:
    form = {"grant_type": "password", "username": customer.login, "password": PASSWORD}
    answer = await shop.clients["user"].post("/token", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def is_taken_everywhere(shop: Shop, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    paths = {
        "user": "/users/me",
        "billing": "/account",
        "order": "/orders",
        "notification": "/notifications",
    }
    answers = await asyncio.gather(
        *(shop.clients[service].get(path, headers=headers) for service, path in paths.items())
    )
    assert [answer.status_code for answer in answers] == [200] * 4


async def test_no_request_fails_while_a_key_gives_way_to_another(
    rotating: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await rotating.customer(balance="1.00")
    first = kid_of(ada.token)
    used: list[str] = []

    async def ask_until(kid: str, times: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while used.count(kid) < times:
                token = await token_of(rotating, ada)
                used.append(kid_of(token))
                await is_taken_everywhere(rotating, token)

    monkeypatch.setattr(signing, "SETTLED", timedelta(hours=1))
    asking = asyncio.create_task(ask_until(first, 10))
    rotation = await rotated(rotating.installation)
    assert (rotation.acknowledged, rotation.before) == (True, (first,))
    await asking
    await ask_until(first, 12)
    assert set(used) == {first}, "nobody signs with a key that is not settled"
    monkeypatch.setattr(signing, "SETTLED", timedelta(0))
    await ask_until(rotation.kid, 5)
    assert set(used) == {first, rotation.kid}
    await is_taken_everywhere(rotating, ada.token)


async def test_the_key_before_ends_once_its_tokens_have(rotating: Shop) -> None:
    ada = await rotating.customer(balance="1.00")
    first = kid_of(ada.token)
    rotation = await rotated(rotating.installation)

    async def told_in(service: str) -> dict[str, float]:
        rows = rotating.rows(
            service, "SELECT kid, extract(epoch FROM not_after - now())::float FROM signing_keys"
        )
        return {str(kid): seconds for kid, seconds in rows}

    for service in ("user", "order", "billing", "notification"):
        good_for = await eventually(
            lambda service=service: told_in(service),  # type: ignore[misc]
            lambda found: found[first] < signing.LIFETIME.total_seconds() / 2,
        )
        assert 15 * 60 < good_for[first] <= signing.VERIFIES_ON.total_seconds()
        assert good_for[rotation.kid] > signing.VERIFIES_ON.total_seconds()
    facts = rotating.rows("user", "SELECT count(*) FROM journal WHERE type = 'RetireSigningKey'")
    assert facts == [(1,)], "it is told once"
    await is_taken_everywhere(rotating, ada.token)


async def test_a_key_that_kafka_does_not_have_does_not_sign(
    rotating: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "_ACKNOWLEDGED_WITHIN", 0.0)
    ada = await rotating.customer()
    await rotating.stop("user")
    rotation = await rotated(rotating.installation)
    assert not rotation.acknowledged
    assert rotating.rows("user", "SELECT count(*) FROM outbox WHERE key = %s", rotation.kid) == [(1,)]
    await rotating.start("user")
    async with asyncio.timeout(PATIENCE):
        while kid_of(await token_of(rotating, ada)) != rotation.kid:
            await is_taken_everywhere(rotating, ada.token)


async def test_a_good_token_whose_key_is_not_heard_yet_is_told_to_come_again(rotating: Shop) -> None:
    """And one that nobody signs is refused, as soon as nothing is left to be heard."""
    ada = await rotating.customer(balance="1.00")
    orders = rotating.clients["order"]

    async def asked_with(token: str) -> tuple[int, str]:
        answer = await orders.get("/orders", headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, answer.json().get("type", "")

    invented = auth.sign(auth.generate_key("invented"), ada.id, now=time.time())
    assert await asked_with(invented) == (401, "urn:choreo:problem:unauthorized")
    lock = "SELECT 1 FROM positions WHERE topic LIKE %s FOR UPDATE"
    async with held(rotating.owner_urls["order"], lock, "%user-events") as lock_on_positions:
        rotation = await rotated(rotating.installation)
        await lock_on_positions.keeps_waiting(1)
        async with asyncio.timeout(PATIENCE):
            while kid_of(token := await token_of(rotating, ada)) != rotation.kid:
                pass
        assert await asked_with(token) == (503, "urn:choreo:problem:keys_late")
    assert (await eventually(lambda: asked_with(token), lambda answer: answer[0] == 200))[0] == 200


def test_a_database_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: object) -> None:
        raise inputs.Unavailable("the database cannot be used: it is away")

    monkeypatch.setattr(keys, "find_installation", lambda: None)
    monkeypatch.setattr(keys, "rotated", away)
    result = CliRunner().invoke(cli.app, ["keys", "rotate"])
    assert isinstance(result.exception, Unavailable) and "away" in str(result.exception)
