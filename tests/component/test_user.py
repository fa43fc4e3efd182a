"""The user service alone: who is registered, and who gets a token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import jwt
import orjson
import pytest
import pytest_asyncio
from jwt import PyJWK

from choreo.chassis import clock
from choreo.chassis.http import auth
from choreo.chassis.http.problems import Problem
from choreo.demo.client import PASSWORD, Customer, registration
from choreo.embedded.postgres import Postgres
from tests.component.alone import (
    Alone,
    alone,
    assert_closed_to_strangers,
    assert_problem,
    assert_refused_at,
)
from user_service.login_limit import MOST_FAILURES, Attempt, LoginLimit

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLES = ("users", "credentials", "journal", "outbox", "keys")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def users(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("user", postgres, templates) as service:
        yield service


def a_login() -> str:
    return f"Ada-{uuid4().hex[:12]}"


def written(users: Alone) -> dict[str, int]:
    return {table: users.database.count(table) for table in TABLES}


async def log_in(users: Alone, login: str, password: str = PASSWORD) -> httpx.Response:
    form = {"grant_type": "password", "username": login, "password": password}
    return await users.http.post("/token", data=form)


# Registration.


async def test_a_registration(users: Alone) -> None:
    login = a_login()
    answer = await users.http.post("/users", json=registration(login))
    assert answer.status_code == 201
    user = answer.json()
    assert user.keys() == {"id", "login", "email", "created_at"}
    assert (user["login"], user["email"]) == (login, f"{login}@example.com")
    ((headers, value),) = users.database.rows("SELECT headers, value FROM outbox WHERE key = %s", user["id"])
    event = dict(orjson.loads(headers))
    assert (event["ce_type"], event["ce_correlationid"]) == ("UserRegistered", answer.headers["Flow-Id"])
    assert orjson.loads(value) == {"user_id": user["id"], "login": login, "email": f"{login}@example.com"}


@pytest.mark.parametrize("domain", ["shop.test", "mail.local", "example.invalid", "bücher.example"])
async def test_an_address_may_be_of_any_domain(users: Alone, domain: str) -> None:
    login = a_login()
    answer = await users.http.post("/users", json=registration(login) | {"email": f"{login}@{domain}"})
    assert (answer.status_code, answer.json().get("email")) == (201, f"{login}@{domain}")


async def test_login_and_address_belong_to_the_first_in_whatever_capitals(users: Alone) -> None:
    login = a_login()
    await users.http.post("/users", json=registration(login))
    before = written(users)
    for taken, body in (
        ("login_taken", registration(login)),
        ("login_taken", registration(a_login()) | {"login": login.upper()}),
        ("email_taken", registration(a_login()) | {"email": f"{login.swapcase()}@EXAMPLE.com"}),
    ):
        assert_problem(await users.http.post("/users", json=body), 409, taken)
    after = written(users)
    assert {table: after[table] - before[table] for table in ("users", "credentials", "outbox")} == {
        "users": 0,
        "credentials": 0,
        "outbox": 0,
    }


async def test_casefolded_is_more_than_lower_case(users: Alone) -> None:
    login = f"straße-{uuid4().hex[:8]}"
    body = registration(a_login()) | {"login": login}
    assert (await users.http.post("/users", json=body)).status_code == 201
    other = registration(a_login()) | {"login": login.replace("ß", "SS")}
    assert_problem(await users.http.post("/users", json=other), 409, "login_taken")


async def test_many_want_one_login_at_once(users: Alone) -> None:
    login = a_login()
    before = written(users)
    bodies = [registration(a_login()) | {"login": login} for _ in range(8)]
    answers = await asyncio.gather(*(users.http.post("/users", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    after = written(users)
    assert after["users"] - before["users"] == after["credentials"] - before["credentials"] == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"login": ""}, "#/login"),
    ({"login": "x" * 65}, "#/login"),
    ({"login": " ada"}, "#/login"),
    ({"login": "a\u0000da"}, "#/login"),
    ({"login": "a\nda"}, "#/login"),
    ({"login": 7}, "#/login"),
    ({"login": None}, "#/login"),
    ({"email": "ada"}, "#/email"),
    ({"email": "ada@"}, "#/email"),
    ({"email": ""}, "#/email"),
    ({"email": ["ada@example.com"]}, "#/email"),
    ({"password": "7 chars"}, "#/password"),
    ({"password": "x" * 129}, "#/password"),
    ({"password": None}, "#/password"),
    ({"admin": True}, "#/admin"),
]


@pytest.mark.parametrize(("change", "pointer"), REFUSED, ids=lambda part: repr(part)[:30])
async def test_what_no_registration_may_hold(users: Alone, change: dict[str, Any], pointer: str) -> None:
    before = written(users)
    answer = await users.http.post("/users", json=registration(a_login()) | change)
    assert_refused_at(answer, pointer)
    assert written(users) == before


@pytest.mark.parametrize("field", ["login", "email", "password"])
async def test_every_field_is_required(users: Alone, field: str) -> None:
    body = registration(a_login())
    del body[field]
    assert_refused_at(await users.http.post("/users", json=body), f"#/{field}")


async def test_every_fault_is_named(users: Alone) -> None:
    answer = await users.http.post("/users", json={"login": "", "email": "x", "extra": 1})
    assert_refused_at(answer, "#/login", "#/email", "#/password", "#/extra")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"login": ""},
        {"password": "secret7"},
        {"password": "secret7" * 30},
        {"password": {"nested": "secret7"}},
        {"secret7 is a name, too": "secret7"},
    ],
)
async def test_no_answer_repeats_what_is_secret(users: Alone, change: dict[str, Any]) -> None:
    body = registration(a_login()) | {"password": "secret7-is-long-enough"} | change
    answer = await users.http.post("/users", json=body)
    assert "secret7" not in answer.text
    assert "secret7" not in str(answer.headers)


async def test_the_password_is_nowhere_but_hashed(users: Alone) -> None:
    login, password = a_login(), f"secret-{uuid4()}"
    await users.http.post("/users", json=registration(login) | {"password": password})
    for table in TABLES:
        assert not users.database.rows(f"SELECT * FROM {table} AS t WHERE t::text LIKE %s", f"%{password}%")
        # bytea shows as hex
        assert not users.database.rows(
            f"SELECT * FROM {table} AS t WHERE t::text LIKE %s", f"%{password.encode().hex()}%"
        )


@pytest.mark.parametrize("password", ["x" * 8, "x" * 128, "пароль пароль", "🔑" * 8])
async def test_passwords_that_are_good(users: Alone, password: str) -> None:
    login = a_login()
    answer = await users.http.post("/users", json=registration(login) | {"password": password})
    assert answer.status_code == 201
    assert (await log_in(users, login, password)).status_code == 200


async def test_bodies_that_are_none(users: Alone) -> None:
    json = {"Content-Type": "application/json"}
    for body in (b"", b"{", b'{"login": "a", "login": "b"}', b"\xff", b'{"login": NaN}'):
        assert_problem(await users.http.post("/users", content=body, headers=json), 400, "malformed_body")
    for body in (b"[]", b"null", b'"x"'):
        assert_refused_at(await users.http.post("/users", content=body, headers=json), "#")
    long = b'{"login": "' + b"x" * 70_000 + b'"}'
    assert_problem(await users.http.post("/users", content=long, headers=json), 413, "body_too_large")
    text = {"Content-Type": "text/plain"}
    assert_problem(
        await users.http.post("/users", content=b"{}", headers=text), 415, "unsupported_media_type"
    )


# Tokens.


async def test_a_token_says_who_one_is(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    answer = await log_in(users, ada.login.upper())
    token = answer.json()
    assert token.keys() == {"access_token", "token_type", "expires_in"}
    assert (token["token_type"], token["expires_in"]) == ("bearer", auth.LIFETIME)
    me = await users.http.get("/users/me", headers={"Authorization": f"Bearer {token['access_token']}"})
    assert (me.status_code, me.json()["id"], me.json()["login"]) == (200, str(ada.id), ada.login)


async def test_strangers_are_sent_away(users: Alone) -> None:
    await assert_closed_to_strangers(users)


async def test_the_key_set_verifies_tokens_and_tells_no_secret(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    answer = await users.http.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    kid = jwt.get_unverified_header(ada.token)["kid"]
    (key,) = [key for key in answer.json()["keys"] if key["kid"] == kid]
    assert "d" not in key
    claims = jwt.decode(
        ada.token, PyJWK(key), algorithms=["EdDSA"], audience=auth.AUDIENCE, issuer=auth.ISSUER
    )
    assert claims["sub"] == str(ada.id)


async def test_wrong_passwords_end_in_a_pause(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    for _ in range(MOST_FAILURES):
        assert_problem(await log_in(users, ada.login, "wrong"), 401, "unauthorized")
    answer = await log_in(users, ada.login.upper(), "wrong")
    assert_problem(answer, 429, "too_many_attempts")
    assert 0 < int(answer.headers["Retry-After"]) <= 15 * 60
    assert (await log_in(users, ada.login)).status_code == 429, "the right one has to wait, too"
    eve = await Customer.register({"user": users.http})
    assert (await log_in(users, eve.login)).status_code == 200, "others need not"


async def test_a_pause_is_for_one_address(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    for _ in range(MOST_FAILURES + 1):
        answer = await log_in(users, ada.login, "wrong")
    assert answer.status_code == 429
    transport = httpx.ASGITransport(users.app, client=("127.0.0.2", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as elsewhere:
        form = {"grant_type": "password", "username": ada.login, "password": PASSWORD}
        assert (await elsewhere.post("/token", data=form)).status_code == 200


async def test_a_success_starts_the_count_again(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    for _ in range(2):
        for _ in range(MOST_FAILURES - 1):
            assert (await log_in(users, ada.login, "wrong")).status_code == 401
        assert (await log_in(users, ada.login)).status_code == 200


async def test_attempts_at_once_are_counted_one_by_one(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    answers = await asyncio.gather(*(log_in(users, ada.login, "wrong") for _ in range(12)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [401] * MOST_FAILURES + [429] * (12 - MOST_FAILURES)


async def test_attempts_at_several_processes_are_counted_together(users: Alone) -> None:
    """All begin before any is decided."""
    login = a_login()
    async with AsyncExitStack() as undecided:
        limits = [LoginLimit(users.runtime.engine, clock.now) for _ in range(MOST_FAILURES + 2)]
        attempts = (undecided.enter_async_context(limit.attempt(login, "127.0.0.1")) for limit in limits)
        begun = await asyncio.gather(*attempts, return_exceptions=True)
        looked_at = [attempt for attempt in begun if isinstance(attempt, Attempt)]
        refused = [error for error in begun if isinstance(error, Problem)]
        assert (len(looked_at), [error.status for error in refused]) == (MOST_FAILURES, [429, 429])
        looked_at[0].failed()
    query = "SELECT count(*) FROM failed_logins WHERE login_key = %s"
    assert users.database.rows(query, login.casefold()) == [(1,)], "what nobody looked at is no failure"


async def test_an_unknown_login_is_answered_like_a_wrong_password(users: Alone) -> None:
    ada, nobody = await Customer.register({"user": users.http}), a_login()
    for _ in range(MOST_FAILURES + 1):
        known, unknown = await log_in(users, ada.login, "wrong"), await log_in(users, nobody, "wrong")
        assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    assert known.status_code == 429


@pytest.mark.parametrize(
    ("form", "pointer"),
    [
        ({"username": "a", "password": "b"}, "#/grant_type"),
        ({"grant_type": "refresh_token", "username": "a", "password": "b"}, "#/grant_type"),
        ({"grant_type": "password", "password": "b"}, "#/username"),
        ({"grant_type": "password", "username": "a"}, "#/password"),
        ({"grant_type": "password", "username": "a", "password": "b", "scope": "c"}, "#/scope"),
    ],
)
async def test_forms_that_ask_for_no_token(users: Alone, form: dict[str, str], pointer: str) -> None:
    assert_refused_at(await users.http.post("/token", data=form), pointer)


async def test_a_token_is_asked_for_by_a_form(users: Alone) -> None:
    answer = await users.http.post("/token", json={"grant_type": "password"})
    assert_problem(answer, 415, "unsupported_media_type")
