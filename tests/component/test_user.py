"""The user service alone: who is registered, and who gets a token."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import orjson
import pytest
import pytest_asyncio
from jwt import PyJWK
from structlog.testing import capture_logs

from choreo.chassis import clock
from choreo.chassis.http import auth
from choreo.chassis.http.problems import Problem
from choreo.demo.client import PASSWORD, Customer, registration
from choreo.embedded.postgres import Postgres
from choreo.message.sessions import SessionsEnded
from tests.component.alone import (
    Alone,
    a_process,
    alone,
    assert_closed_to_strangers,
    assert_problem,
    assert_refused_at,
)
from tests.databases import a_database
from tests.shop import PATIENCE
from user_service import login_limit, passwords, queries
from user_service.login_limit import (
    KNOWN_FOR,
    MOST_FAILURES,
    MOST_OF_ADDRESS,
    WINDOW,
    Attempt,
    LoginLimit,
)

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


async def log_in(users: Alone, login: str, password: str = PASSWORD) -> httpx2.Response:
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
    assert written(users) == before, "what is refused leaves no row"


async def test_casefolded_is_more_than_lower_case(users: Alone) -> None:
    login = f"straße-{uuid4().hex[:8]}"
    body = registration(a_login()) | {"login": login}
    assert (await users.http.post("/users", json=body)).status_code == 201
    other = registration(a_login()) | {"login": login.replace("ß", "SS")}
    assert_problem(await users.http.post("/users", json=other), 409, "login_taken")


ALIKE = [("jos\u00e9", "jose\u0301"), ("Ada", "\uff21\uff44\uff41"), ("\ufb01n", "FIN"), ("\u2460", "1")]


@pytest.mark.parametrize(("name", "other"), ALIKE)
async def test_what_looks_alike_is_one_name(users: Alone, name: str, other: str) -> None:
    end = uuid4().hex[:12]
    body = registration(a_login()) | {"login": f"{name}-{end}", "email": f"{name}-{end}@example.com"}
    answer = await users.http.post("/users", json=body)
    assert (answer.status_code, answer.json()["login"]) == (201, body["login"]), "as it was given"
    assert_problem(
        await users.http.post("/users", json=registration(a_login()) | {"login": f"{other}-{end}"}),
        409,
        "login_taken",
    )
    address = {"email": f"{other}-{end}@EXAMPLE.com"}
    taken = await users.http.post("/users", json=registration(a_login()) | address)
    # Some spellings are none that an address may have.
    assert taken.status_code in (409, 422)
    assert (await log_in(users, f"{other}-{end}")).status_code == 200


async def test_a_domain_is_one_in_either_spelling(users: Alone) -> None:
    login = a_login()
    body = registration(login) | {"email": f"{login}@b\u00fccher.example"}
    assert (await users.http.post("/users", json=body)).status_code == 201
    other = registration(a_login()) | {"email": f"{login}@xn--bcher-kva.example"}
    assert_problem(await users.http.post("/users", json=other), 409, "email_taken")


INVISIBLE = (
    "\u200b\u200d\u202e\u2060\ufeff\u00ad\u034f\u061c\u115f\u1160\u17b4"
    "\u180e\u2800\u3164\ufe0f\uffa0\u0007\u009b\u2028\U000e0061\U000e0100"
)


@pytest.mark.parametrize("character", INVISIBLE, ids=lambda character: f"U+{ord(character):04X}")
async def test_nothing_invisible_is_part_of_a_name(users: Alone, character: str) -> None:
    login = a_login()
    for change, pointer in (
        ({"login": f"{login}{character}x"}, "#/login"),
        ({"email": f"{login}{character}x@example.com"}, "#/email"),
        ({"email": f"{login}@exa{character}mple.com"}, "#/email"),
    ):
        assert_refused_at(await users.http.post("/users", json=registration(login) | change), pointer)


@pytest.mark.parametrize(
    "address", ["=?utf-8?q?xfsrr?=@example.com", "=?utf-8?b?#?=@x.invalid", "a=?b@example.com"]
)
async def test_an_address_that_mail_would_read_otherwise_is_none(users: Alone, address: str) -> None:
    body = registration(a_login()) | {"email": address}
    assert_refused_at(await users.http.post("/users", json=body), "#/email")


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
    transport = httpx2.ASGITransport(users.app, client=("127.0.0.2", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as elsewhere:
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
    query = "SELECT count(*) FROM failed_logins WHERE pair = %s"
    pair = looked_at[0]._place["pair"]
    assert users.database.rows(query, pair) == [(1,)], "what nobody looked at is no failure"


@asynccontextmanager
async def coming_from(users: Alone, address: str, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(users.app, client=(address, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
        yield http


def form(login: str, password: str = PASSWORD) -> dict[str, str]:
    return {"grant_type": "password", "username": login, "password": password}


async def test_an_address_has_so_many_failures_and_who_is_known_there_is_let_in(users: Alone) -> None:
    ada, bob = [await Customer.register({"user": users.http}) for _ in range(2)]
    async with coming_from(users, "10.1.1.1") as there, coming_from(users, "10.1.1.2") as elsewhere:
        assert (await there.post("/token", data=form(ada.login))).status_code == 200
        for _ in range(MOST_OF_ADDRESS):
            assert (await there.post("/token", data=form(a_login(), "wrong"))).status_code == 401
        refused = await there.post("/token", data=form(bob.login))
        assert_problem(refused, 429, "too_many_attempts")
        assert 0 < int(refused.headers["Retry-After"]) <= 15 * 60
        assert (await there.post("/token", data=form(ada.login.upper()))).status_code == 200
        assert (await elsewhere.post("/token", data=form(bob.login))).status_code == 200
        for _ in range(MOST_FAILURES):
            assert (await there.post("/token", data=form(ada.login, "wrong"))).status_code == 401
        assert (await there.post("/token", data=form(ada.login))).status_code == 429


async def test_a_crowd_of_strangers_does_not_keep_the_owner_out(
    users: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checks last until the owner waits behind all of them."""
    ada = await Customer.register({"user": users.http})
    owner_waits, known_ones = threading.Event(), list[bool]()
    matches, begin = passwords.Passwords._matches, passwords.Turns.begin

    def check(of: passwords.Passwords, stored: str | None, password: str) -> bool:
        known_ones.append(stored is not None)
        assert stored is not None or owner_waits.wait(PATIENCE)
        return matches(of, stored, password)

    async def stand(turns: passwords.Turns, known: bool) -> None:
        if known:
            asyncio.get_running_loop().call_soon(owner_waits.set)
        await begin(turns, known)

    monkeypatch.setattr(passwords.Passwords, "_matches", check)
    monkeypatch.setattr(passwords.Turns, "begin", stand)
    async with coming_from(users, "10.2.2.2") as strangers:
        crowd = [asyncio.ensure_future(strangers.post("/token", data=form(a_login()))) for _ in range(100)]
        answered = asyncio.as_completed(crowd, timeout=PATIENCE)
        assert (await next(answered)).status_code == 503, "their part of the queue is full"
        assert (await log_in(users, ada.login)).status_code == 200
        answers = await asyncio.gather(*crowd)
    assert known_ones.index(True) <= passwords.CHECKS_AT_ONCE, "before those who waited already"
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {401, 503}
    assert statuses[503] >= 100 - 2 * passwords.MOST_OF_ADDRESS
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 503)


async def test_of_a_login_digests_are_stored_and_not_for_ever(
    users: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await Customer.register({"user": users.http})
    assert (await log_in(users, ada.login, "wrong")).status_code == 401
    for table in ("failed_logins", "known_pairs"):
        told = " ".join(text for (text,) in users.database.rows(f"SELECT {table}::text FROM {table}"))
        assert ada.login.lower() not in told.lower() and "127.0.0.1" not in told
        assert users.database.count(table) > 0
    limit = LoginLimit(users.runtime.engine, clock.now)
    await limit.forget()
    assert users.database.count("failed_logins") > 0
    monkeypatch.setattr(login_limit, "MOST_KNOWN", 2)
    await limit.forget()
    assert users.database.count("known_pairs") == 2
    for later, table in ((WINDOW, "failed_logins"), (KNOWN_FOR, "known_pairs")):
        await LoginLimit(users.runtime.engine, lambda after=later: clock.now() + after).forget()  # type: ignore[misc]
        assert users.database.count(table) == 0


@pytest.mark.parametrize("login", ["x" * 65, "\U0001f511" * 1000, "x" * 60_000])
async def test_a_name_nobody_can_have_is_a_plain_401(users: Alone, login: str) -> None:
    failures = users.database.count("failed_logins")
    assert_problem(await log_in(users, login), 401, "unauthorized")
    assert users.database.count("failed_logins") == failures


async def test_behind_a_proxy_that_is_trusted_each_address_counts_for_itself(
    users: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_TRUSTED_PROXIES", "10.9.0.0/16")
    ada = await Customer.register({"user": users.http})
    async with a_process("user", users.database) as behind:
        for proxy, others in (("10.9.1.1", 200), ("10.8.1.1", 429)):
            async with coming_from(behind, proxy, **{"X-Forwarded-For": "1.1.1.1, 192.0.2.1"}) as eve:
                for _ in range(MOST_FAILURES):
                    assert (await eve.post("/token", data=form(ada.login, "wrong"))).status_code == 401
                assert (await eve.post("/token", data=form(ada.login))).status_code == 429
            async with coming_from(behind, proxy, **{"X-Forwarded-For": "192.0.2.2"}) as owner:
                assert (await owner.post("/token", data=form(ada.login))).status_code == others


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


# Passwords and sessions.


def as_(customer: Customer, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {customer.token}", **more}


async def change(users: Alone, customer: Customer, current: str, new: str) -> httpx2.Response:
    body = {"current": current, "new": new}
    return await users.http.put("/users/me/password", json=body, headers=as_(customer))


async def end_sessions(users: Alone, customer: Customer, key: str = "1") -> httpx2.Response:
    return await users.http.post("/users/me/sessions/end", headers=as_(customer, **{"Idempotency-Key": key}))


async def is_in(users: Alone, token: str) -> bool:
    answer = await users.http.get("/users/me", headers={"Authorization": f"Bearer {token}"})
    if answer.status_code != 200:
        assert_problem(answer, 401, "unauthorized")
    return answer.status_code == 200


NEW = "wrong horse battery"


async def test_a_changed_password_ends_every_session_of_before(users: Alone) -> None:
    ada, eve = [await Customer.register({"user": users.http}) for _ in range(2)]
    other = (await log_in(users, ada.login)).json()["access_token"]
    assert await is_in(users, other)
    answer = await change(users, ada, PASSWORD, NEW)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert not await is_in(users, ada.token) and not await is_in(users, other)
    assert await is_in(users, eve.token), "nobody else's"
    assert (await log_in(users, ada.login)).status_code == 401
    assert await is_in(users, (await log_in(users, ada.login, NEW)).json()["access_token"])
    ((headers, value),) = users.database.rows(
        "SELECT headers, value FROM outbox WHERE key = %s AND convert_from(headers, 'UTF8') LIKE %s",
        str(ada.id),
        "%SessionsEnded%",
    )
    event = dict(orjson.loads(headers))
    assert event["ce_correlationid"] == answer.headers["Flow-Id"]
    assert orjson.loads(value) == {"user_id": str(ada.id), "not_before": event["ce_time"]}


async def test_a_wrong_current_password_is_a_failed_login(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    for _ in range(MOST_FAILURES - 1):
        assert_problem(await change(users, ada, "wrong", NEW), 403, "wrong_password")
    assert (await log_in(users, ada.login, "wrong")).status_code == 401
    assert_problem(await change(users, ada, PASSWORD, NEW), 429, "too_many_attempts")
    assert_problem(await log_in(users, ada.login), 429, "too_many_attempts")
    assert await is_in(users, ada.token), "nothing was ended"


async def test_ended_sessions_are_all_sessions_of_before_and_a_login_right_afterwards_works(
    users: Alone,
) -> None:
    ada = await Customer.register({"user": users.http})
    for round in range(5):
        other = (await log_in(users, ada.login)).json()["access_token"]
        assert (await end_sessions(users, ada, f"round {round}")).status_code == 204
        assert not await is_in(users, ada.token) and not await is_in(users, other)
        assert_problem(await end_sessions(users, ada, f"round {round}"), 401, "unauthorized")
        ada = replace(ada, token=(await log_in(users, ada.login)).json()["access_token"])
        assert await is_in(users, ada.token)
    assert (await end_sessions(users, ada, "round 0")).status_code == 204
    assert await is_in(users, ada.token), "that was answered before"
    answer = await users.http.post("/users/me/sessions/end", headers=as_(ada))
    assert_problem(answer, 400, "idempotency_key_missing")


async def test_a_login_after_an_end_that_a_faster_clock_told_works(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    ended = clock.now() + timedelta(seconds=5)
    await users.hear(SessionsEnded(user_id=ada.id, not_before=ended))
    assert not await is_in(users, ada.token)
    assert await is_in(users, (await log_in(users, ada.login)).json()["access_token"])


async def test_a_login_that_meets_a_change_of_password_ends_with_it(
    users: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old password was right when it was looked at, and the new one is there before there is a token."""
    ada = await Customer.register({"user": users.http})
    session_start = queries.session_start

    async def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert (await change(users, ada, PASSWORD, NEW)).status_code == 204
        return await session_start(*arguments)

    monkeypatch.setattr(queries, "session_start", late)
    assert_problem(await log_in(users, ada.login), 401, "unauthorized")


async def test_of_two_who_change_a_password_at_once_the_second_knows_it_no_more(users: Alone) -> None:
    ada = await Customer.register({"user": users.http})
    answers = await asyncio.gather(*(change(users, ada, PASSWORD, f"{NEW} {n}") for n in range(2)))
    done = [answer.status_code == 204 for answer in answers]
    assert sorted(done) == [False, True]
    assert (await log_in(users, ada.login, f"{NEW} {done.index(True)}")).status_code == 200


@pytest.mark.parametrize("password", ["password", "Password1", "QWERTYUIOP", "1q2w3e4r", "iloveyou1"])
async def test_the_commonest_passwords_are_refused(users: Alone, password: str) -> None:
    body = registration(a_login()) | {"password": password}
    assert_refused_at(await users.http.post("/users", json=body), "#/password")
    ada = await Customer.register({"user": users.http})
    assert_refused_at(await change(users, ada, PASSWORD, password), "#/new")


async def test_another_process_of_the_service_refuses_it_too(
    postgres: Postgres, templates: dict[str, str]
) -> None:
    with a_database("user", postgres, templates) as database:
        async with a_process("user", database) as one, a_process("user", database) as other:
            ada = await Customer.register({"user": one.http})
            assert await is_in(other, ada.token)
            with other.runtime.kernel.waiters.watching(SessionsEnded.__name__) as told:
                assert (await end_sessions(one, ada)).status_code == 204
                async with asyncio.timeout(PATIENCE):
                    await told.wait()
            assert not await is_in(other, ada.token)


async def test_what_is_done_with_an_account_is_a_line_without_its_login(users: Alone) -> None:
    with capture_logs() as lines:
        ada = await Customer.register({"user": users.http})
        await log_in(users, ada.login, "wrong")
        await change(users, ada, PASSWORD, NEW)
        ada = replace(ada, token=(await log_in(users, ada.login, NEW)).json()["access_token"])
        await end_sessions(users, ada)
    audit = [line for line in lines if line["event"] == "audit"]
    assert [line["what"] for line in audit] == [
        "registered", "logged_in", "password_wrong", "password_changed", "logged_in", "sessions_ended",
    ]  # fmt: skip
    assert len({line["login"] for line in audit}) == 1 and {line["address"] for line in audit} == {
        "127.0.0.1"
    }
    for secret in (ada.login, PASSWORD, NEW, ada.token):
        assert secret not in str(lines)
