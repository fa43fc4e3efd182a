"""The contract, held against one running system from outside. Each test's name is the rule it holds.

With `--style` the system is of another one: all of it holds there, but for what needs what that has not.
`test_styles.py` holds the part of it that moves money against style http in every run.
"""

import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from select import select
from typing import Any
from uuid import UUID, uuid4

import httpx2
import jwt
import psutil
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from prometheus_client.parser import text_string_to_metric_families

from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.styles.composition import COLLABORATION, has_kafka
from tests.e2e.outside import (
    OFFSET,
    PASSWORD,
    PATIENCE,
    TOPICS,
    Event,
    Json,
    Log,
    Shop,
    User,
    observer,
    registration,
    until,
)
from tests.otlp import assert_bars_are_hops, assert_is_one_order, receiver

ROOT = Path(__file__).parents[2]
SERVICES = tuple(OFFSET)
JSON = {"Content-Type": "application/json"}
PROTECTED = {"user": "/users/me", "order": "/orders", "billing": "/account", "notification": "/notifications"}
NOWHERE = "/orders/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def style(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--style"))


@pytest.fixture(scope="module")
def system(style: str) -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem(style=style) as system:
        system.start()
        yield system


@pytest.fixture(scope="module")
def needs_kafka(style: str) -> None:
    if not has_kafka(style):
        pytest.skip(f"style {style} has no Kafka and keeps no events")


@pytest.fixture(scope="module")
def shop(system: ThrowawaySystem) -> Iterator[Shop]:
    shop = Shop(system.port_base)
    with shop.http:
        yield shop


@pytest.fixture(scope="module")
def log(system: ThrowawaySystem, needs_kafka: None) -> Iterator[Log]:
    log = Log(observer(system.home))
    yield log
    log.close()


@pytest.fixture
def user(shop: Shop) -> User:
    return shop.user()


@pytest.fixture
def customer(shop: Shop) -> User:
    """Has an account with 400.00 on it."""
    return shop.customer()


@pytest.fixture(scope="module")
def anyone(shop: Shop) -> User:
    """For tests that leave nothing behind. Has an account with nothing on it."""
    return shop.customer("0.00")


@contextmanager
def stopped(system: ThrowawaySystem, part: str) -> Iterator[None]:
    """It is there, and does nothing."""
    process = psutil.Process(system.run_file["pids"][part])
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def code(answer: httpx2.Response) -> str:
    """What went wrong. Whatever it was, it is told in one shape."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["title"] and body["detail"]
    return str(body["type"].removeprefix("urn:choreo:problem:"))


def places(answer: httpx2.Response) -> set[str]:
    """Where a 422 says the faults are."""
    assert answer.status_code == 422, answer.text
    code(answer)
    assert all(error["detail"] for error in answer.json()["errors"])
    return {error.get("pointer") or error["parameter"] for error in answer.json()["errors"]}


def is_utc(time: str) -> bool:
    return time.endswith("Z") and datetime.fromisoformat(time).utcoffset() == timedelta(0)


# -- commands --------------------------------------------------------------------------------------


def choreo(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    outer = {name: value for name, value in os.environ.items() if not name.startswith("CHOREO_")}
    return subprocess.run(
        [sys.executable, "-m", "choreo.cli.main", *arguments],
        env=outer | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("target", ["run", "test", "demo", "check", "chaos", "bench"])
def test_make_knows(target: str) -> None:
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    return set(re.findall(r"^│ (\w+)", choreo("--help").stdout, re.MULTILINE))


@pytest.mark.parametrize(
    "verb",
    [
        *("up", "provision", "demo", "chaos", "bench", "dlq", "doctor"),
        *("trace", "record", "verify", "replay", "state", "blame", "rebuild", "styles"),
    ],
)
def test_choreo_knows(verb: str, verbs: set[str]) -> None:
    assert verb in verbs


def test_verbs_that_print_data_print_it_as_json_too(system: ThrowawaySystem) -> None:
    for arguments in (["doctor", "--json"], ["dlq", "ls", "--json"]):
        done = choreo(*arguments, CHOREO_HOME=str(system.home), CHOREO_PORT_BASE=str(system.port_base))
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)


def refusal(*arguments: str, **environment: str) -> tuple[int, str]:
    done = choreo(*arguments, **environment)
    return done.returncode, done.stderr


def test_wrong_usage_exits_64() -> None:
    assert choreo("up", "--backwards").returncode == 64


def test_a_broken_setting_is_one_sentence_that_names_it_and_exit_69(tmp_path: Path) -> None:
    exit_code, said = refusal("up", CHOREO_HOME=str(tmp_path), CHOREO_PORT_BASE="eight thousand")
    assert exit_code == 69
    assert said.count("\n") == 1 and "CHOREO_PORT_BASE" in said


def test_a_taken_port_is_one_sentence_that_names_it_and_exit_69(
    system: ThrowawaySystem, tmp_path: Path
) -> None:
    base = system.port_base
    exit_code, said = refusal("up", CHOREO_HOME=str(tmp_path), CHOREO_PORT_BASE=str(base))
    assert exit_code == 69
    assert said.count("\n") == 1 and str(base + 1) in said


def test_one_system_at_a_time_holds_a_home_and_fresh_refuses_too(system: ThrowawaySystem) -> None:
    for fresh in ([], ["--fresh"]):
        exit_code, said = refusal("up", *fresh, CHOREO_HOME=str(system.home))
        assert exit_code == 69
        assert said.count("\n") == 1 and str(system.home) in said
    assert (system.home / "data").is_dir()


def test_every_part_has_its_log_under_logs(system: ThrowawaySystem, style: str) -> None:
    logs = {path.stem for path in (system.home / "logs").glob("*.log")}
    kafka = {"kafka"} if has_kafka(style) else set()
    assert logs >= {*SERVICES, "postgres", "mail"} | kafka


# -- where things listen ---------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [*OFFSET.values(), 25, 1092, 1093])
def test_a_part_listens_at_its_offset_from_the_port_base(shop: Shop, offset: int, style: str) -> None:
    if offset > 1000 and not has_kafka(style):
        pytest.skip(f"style {style} has no Kafka")
    socket.create_connection(("127.0.0.1", shop.port_base + offset), timeout=PATIENCE).close()


def test_nothing_listens_beyond_loopback(system: ThrowawaySystem) -> None:
    supervisor = psutil.Process(system.supervisor_pid)
    listening = [
        connection.laddr
        for process in [supervisor, *supervisor.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_postgres_listens_on_a_unix_socket_under_the_home(system: ThrowawaySystem) -> None:
    postgres = system.home / "data" / "postgres"  # a link, where Postgres may not enter the home
    assert [path for path in postgres.resolve().rglob(".s.PGSQL.*") if path.is_socket()]


def test_the_mail_sink_speaks_smtp_and_keeps_mail_in_a_maildir(system: ThrowawaySystem, shop: Shop) -> None:
    mark = uuid4().hex
    with smtplib.SMTP("127.0.0.1", shop.port_base + 25) as mail:
        mail.sendmail("a@example.com", ["b@example.com"], f"Subject: {mark}\n\nhello")
    (maildir,) = (path.parent for path in system.home.rglob("new") if (path.parent / "cur").is_dir())
    assert any(mark in mail.read_text() for mail in (maildir / "new").iterdir())


def test_a_read_only_observer_credential_lies_under_secrets(system: ThrowawaySystem) -> None:
    assert any("observer" in path.name for path in (system.home / "secrets").iterdir())


def test_nobody_gets_at_the_topics_without_credentials(shop: Shop, needs_kafka: None) -> None:
    nobody = AdminClient({"bootstrap.servers": f"127.0.0.1:{shop.port_base + 1092}", "log_level": 0})
    with pytest.raises(KafkaException):
        nobody.list_topics(timeout=3)


# -- HTTP: what every service answers --------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_live_answers_200(shop: Shop, service: str) -> None:
    assert shop.ask("GET", service, "/health/live").status_code == 200


@pytest.mark.parametrize("service", SERVICES)
def test_ready_names_database_and_broker(shop: Shop, service: str, style: str) -> None:
    answer = shop.ask("GET", service, "/health/ready")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert set(answer.json()["jobs"]) >= {"database", *({"broker"} if has_kafka(style) else ())}
    for job in answer.json()["jobs"].values():
        assert job.keys() == {"ready", "waiting", "since", "cause"}
        assert job["ready"] is True and job["cause"] is None and job["since"].endswith("Z")


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_in_prometheus_format(shop: Shop, service: str) -> None:
    answer = shop.ask("GET", service, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert [family.name for family in text_string_to_metric_families(answer.text)]


@pytest.mark.parametrize("service", SERVICES)
def test_the_api_is_documented(shop: Shop, service: str) -> None:
    assert shop.ask("GET", service, "/openapi.json").json()["openapi"].startswith("3.")
    assert shop.ask("GET", service, "/docs").headers["Content-Type"].startswith("text/html")


# -- HTTP: who asks --------------------------------------------------------------------------------

GUARDED = [
    ("GET", "/users/me"),
    ("GET", "/account"),
    ("POST", "/account/deposits"),
    ("POST", "/account/withdrawals"),
    ("GET", "/account/entries"),
    ("POST", "/orders"),
    ("GET", NOWHERE),
    ("GET", "/orders"),
    ("GET", f"{NOWHERE}/events"),
    ("POST", f"{NOWHERE}/cancel"),
    ("GET", "/notifications"),
    ("GET", NOWHERE.replace("orders", "notifications")),
]


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer none", "Basic YTpi", "TOKEN tampered"])
@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_valid_token_401(anyone: User, method: str, path: str, token: str) -> None:
    head, payload, signature = anyone.token.split(".")
    tampered = f"Bearer {head}.{payload}.{signature[::-1]}"
    headers = {"Authorization": tampered if "tampered" in token else token} if token else {}
    answer = anyone.ask(method, path, {"Authorization": "", **headers})
    assert (answer.status_code, code(answer)) == (401, "unauthorized")


@pytest.mark.parametrize("path", [NOWHERE, f"{NOWHERE}/cancel", NOWHERE.replace("orders", "notifications")])
def test_what_is_not_there_is_404(anyone: User, path: str) -> None:
    answer = anyone.post(path) if path.endswith("cancel") else anyone.get(path)
    assert (answer.status_code, code(answer)) == (404, "not_found")


@pytest.mark.parametrize("id", ["7", "none", NOWHERE.removeprefix("/orders/")[:-1], "%00"])
@pytest.mark.parametrize("path", ["/orders/{}", "/notifications/{}", "/orders/{}/cancel"])
def test_a_malformed_id_is_404(anyone: User, path: str, id: str) -> None:
    place = path.format(id)
    answer = anyone.post(place) if path.endswith("cancel") else anyone.get(place)
    assert answer.status_code == 404


def test_what_is_somebody_elses_is_404(customer: User, anyone: User) -> None:
    order = customer.order("1.00").json()["id"]
    (notification,) = customer.notified(1)
    assert anyone.get(f"/orders/{order}").status_code == 404
    assert anyone.cancel(order).status_code == 404
    assert anyone.get(f"/notifications/{notification['id']}").status_code == 404


# -- HTTP: what may be in a body -------------------------------------------------------------------

POSTS: list[tuple[str, Json]] = [
    ("/users", {"login": "x", "email": "x@example.com", "password": PASSWORD}),
    ("/account/deposits", {"amount": "1.00"}),
    ("/account/withdrawals", {"amount": "1.00"}),
    ("/orders", {"price": "1.00"}),
]
KEYED = [path for path, _ in POSTS[1:]]
FIELD = {"/account/deposits": "amount", "/account/withdrawals": "amount", "/orders": "price"}


@pytest.mark.parametrize("amount", ["0.01", "1", 1, 0.5, "7.5", 12.25, "999999999.99", 999999999.99])
def test_an_amount_is_a_string_or_a_number_from_a_cent_to_a_billion(user: User, amount: object) -> None:
    assert user.order(amount, wait=0).status_code == 202


@pytest.mark.parametrize(
    "amount",
    [
        *("100.000", "0", "0.00", 0, -1, "-1.00", "0.001", 0.001, "1000000000.00", 1000000000),
        *(
            "",
            " 1",
            "1 ",
            "+1",
            "1_000",
            "1,00",
            "1e2",
            "01",
            ".5",
            "1.",
            "\u0661",
            "NaN",
            None,
            True,
            [],
            {},
        ),
    ],
)
@pytest.mark.parametrize("path", KEYED)
def test_any_other_amount_is_422_and_says_where(anyone: User, path: str, amount: object) -> None:
    assert places(anyone.post(path, {FIELD[path]: amount})) == {f"#/{FIELD[path]}"}


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_an_unknown_field_is_422(anyone: User, path: str, body: Json) -> None:
    assert places(anyone.post(path, body | {"surprise": "1"})) == {"#/surprise"}


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_a_missing_field_is_422(anyone: User, path: str, body: Json) -> None:
    assert places(anyone.post(path, {})) == {f"#/{name}" for name in body}


BIG = b'{"amount": "1.00", "x": "' + b"x" * 65536 + b'"}'


def post_raw(user: User, path: str, content: bytes, **headers: str) -> httpx2.Response:
    """With an idempotency key and as JSON, unless the headers say otherwise; empty ones are left out."""
    named = (
        JSON | {"Idempotency-Key": uuid4().hex} | {name.replace("_", "-"): headers[name] for name in headers}
    )
    return user.ask("POST", path, {name: value for name, value in named.items() if value}, content=content)


def test_a_body_over_64_kib_is_413(anyone: User) -> None:
    answer = post_raw(anyone, "/account/deposits", BIG)
    assert answer.status_code == 413
    code(answer)


def test_a_body_of_exactly_64_kib_is_read(user: User) -> None:
    body = b'{"price": "1.00"}'
    assert post_raw(user, "/orders", body + b" " * (65536 - len(body))).status_code == 202


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"amount": NaN}', b'{"amount": "1", "amount": "1"}', b"\xff"]
)
def test_malformed_json_and_repeated_names_are_400(anyone: User, content: bytes) -> None:
    answer = post_raw(anyone, "/account/deposits", content)
    assert answer.status_code == 400
    code(answer)


CHECKS: list[tuple[int, bytes, dict[str, str]]] = [
    (401, b"{", {"Authorization": "Bearer none", "Content_Type": "text/plain", "Idempotency_Key": ""}),
    (413, BIG, {"Content_Type": "text/plain", "Idempotency_Key": ""}),
    (415, b"{", {"Content_Type": "text/plain", "Idempotency_Key": ""}),
    (400, b"{", {"Idempotency_Key": ""}),
    (400, b'{"amount": "-1"}', {"Idempotency_Key": ""}),
    (422, b'{"amount": "-1"}', {}),
    (409, b'{"amount": "1.00"}', {}),
]


@pytest.mark.parametrize(("status", "content", "headers"), CHECKS, ids=[str(check[0]) for check in CHECKS])
def test_of_several_faults_the_first_check_answers(
    anyone: User, status: int, content: bytes, headers: dict[str, str]
) -> None:
    """Each case has all the faults of those below it. Withdrawing is refused in the end: no money."""
    assert post_raw(anyone, "/account/withdrawals", content, **headers).status_code == status


def test_unacceptable_fields_come_before_a_used_key_and_that_before_the_decision(customer: User) -> None:
    first = customer.withdraw("400.00", "once")
    assert places(customer.withdraw("-1", "once")) == {"#/amount"}
    assert code(customer.withdraw("500.00", "once")) == "idempotency_key_reused"
    assert customer.withdraw("400.00", "once").json() == first.json()


@pytest.mark.parametrize("path", ["/orders", "/account/entries", "/notifications"])
@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=", "cursor=x"])
def test_a_query_out_of_range_is_422_and_names_the_parameter(anyone: User, path: str, query: str) -> None:
    assert places(anyone.get(f"{path}?{query}")) == {query.partition("=")[0]}


@pytest.mark.parametrize("wait", ["-1", "31", "x"])
def test_a_wait_out_of_range_is_422(anyone: User, wait: str) -> None:
    assert places(anyone.get(f"{NOWHERE}?wait={wait}")) == {"wait"}


SECRET = "Tr0ub4dor-and-3"


@pytest.mark.parametrize(
    "ask",
    [
        lambda user: user.post("/users", {"login": SECRET * 9, "email": SECRET, "password": SECRET[:7]}),
        lambda user: user.post("/users", {"login": "x", "email": "x@example.com", SECRET: "y"}),
        lambda user: user.shop.token(user.login, SECRET),
        lambda user: user.deposit(SECRET),
        lambda user: user.deposit({SECRET: SECRET}),
        lambda user: post_raw(user, "/orders", f'{{"price": {SECRET}}}'.encode()),
        lambda user: post_raw(user, "/orders", b"{}", Content_Type=SECRET),
        lambda user: user.get(f"/orders?cursor={SECRET}"),
        lambda user: user.get(f"/orders/{SECRET}"),
        lambda user: user.ask("GET", "/account", {"Authorization": f"Bearer {SECRET}"}),
    ],
)
def test_no_answer_repeats_rejected_input(user: User, ask: Callable[[User], httpx2.Response]) -> None:
    answer = ask(user)
    assert answer.status_code >= 400
    assert SECRET[:7] not in answer.text + str(answer.headers)


# -- idempotency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*KEYED, f"{NOWHERE}/cancel"])
def test_without_an_idempotency_key_400(anyone: User, path: str) -> None:
    body = dict(POSTS).get(path)
    assert anyone.ask("POST", path, json=body).status_code == 400


@pytest.mark.parametrize("path", KEYED)
def test_the_same_key_and_body_give_the_first_answer_again(customer: User, path: str) -> None:
    first, again = (customer.post(path, {FIELD[path]: amount}, "once") for amount in ("100", 100.00))
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.headers["Flow-Id"] == again.headers["Flow-Id"]
    assert customer.balance() == {"deposits": "500.00", "withdrawals": "300.00"}.get(path[9:], "400.00") or (
        len(customer.items("/orders")) == 1
    )


def test_a_cancel_again_gives_the_first_answer_though_the_order_is_refunded_by_now(customer: User) -> None:
    order = customer.order("100.00").json()["id"]
    first = customer.cancel(order, "once")
    until(lambda: customer.get(f"/orders/{order}").json(), lambda seen: seen["status"] == "refunded")
    again = customer.cancel(order, "once")
    assert (first.status_code, first.content) == (202, again.content)
    assert first.headers["Flow-Id"] == again.headers["Flow-Id"]
    assert customer.cancel(order, "another").status_code == 409


@pytest.mark.parametrize("path", KEYED)
def test_the_same_key_with_another_body_is_422(customer: User, path: str) -> None:
    customer.post(path, {FIELD[path]: "100.00"}, "once")
    answer = customer.post(path, {FIELD[path]: "100.01"}, "once")
    assert (answer.status_code, code(answer)) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("path", KEYED)
def test_a_key_in_flight_gives_the_first_answer_or_409(customer: User, path: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        ask = partial(customer.post, path, {FIELD[path]: "1.00"}, "once")
        answers = [future.result() for future in [pool.submit(ask) for _ in range(20)]]
    assert len({answer.content for answer in answers if answer.status_code != 409}) == 1
    entries, orders = customer.items("/account/entries"), customer.items("/orders")
    assert len(entries) + len(orders) == 2 or (path == "/orders" and len(orders) == 1)


def test_a_key_is_ones_own_and_for_one_route(customer: User, shop: Shop) -> None:
    answers = [
        customer.deposit("1.00", "one"),
        customer.withdraw("1.00", "one"),
        customer.order("1.00", "one"),
        shop.customer().deposit("1.00", "one"),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 4


# -- the user service ------------------------------------------------------------------------------


def test_a_registration_is_answered_with_the_user(shop: Shop) -> None:
    wanted = registration(f"Ada-{uuid4().hex[:8]}")
    answer = shop.ask("POST", "user", "/users", json=wanted)
    assert answer.status_code == 201
    user = answer.json()
    assert set(user) == {"id", "login", "email", "created_at"}
    assert (user["login"], user["email"]) == (wanted["login"], wanted["email"])
    assert UUID(user["id"]) and is_utc(user["created_at"])
    assert UUID(answer.headers["Flow-Id"])


@pytest.mark.parametrize("taken", ["login", "email"])
def test_a_taken_login_or_address_is_409_in_whatever_capitals(shop: Shop, user: User, taken: str) -> None:
    other = registration(f"bob-{uuid4().hex[:8]}")
    answer = shop.ask("POST", "user", "/users", json=other | {taken: registration(user.login)[taken].upper()})
    assert (answer.status_code, code(answer)) == (409, f"{taken}_taken")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "1234567"),
        ("password", "x" * 129),
        ("login", ""),
        ("login", "x" * 65),
        ("email", "nobody"),
        ("email", "a@b@c"),
    ],
)
def test_a_registration_out_of_bounds_is_422(shop: Shop, field: str, value: str) -> None:
    wanted = registration(f"bob-{uuid4().hex[:8]}") | {field: value}
    assert places(shop.ask("POST", "user", "/users", json=wanted)) == {f"#/{field}"}


@pytest.mark.parametrize("password", ["2fZ,tq!8", "x" * 128])
def test_a_password_has_8_to_128_characters(shop: Shop, password: str) -> None:
    login = f"bob-{uuid4().hex[:8]}"
    wanted = registration(login) | {"password": password}
    assert shop.ask("POST", "user", "/users", json=wanted).status_code == 201
    assert shop.token(login, password).status_code == 200


@pytest.mark.parametrize("length", [1, 64])
def test_a_login_has_1_to_64_characters(shop: Shop, length: int) -> None:
    login = chr(0x4E00 + uuid4().int % 20000) if length == 1 else uuid4().hex * 2
    wanted = registration(login) | {"email": f"{uuid4().hex}@example.com"}
    assert shop.ask("POST", "user", "/users", json=wanted).status_code == 201


def test_a_token_is_a_bearer_token_and_says_how_long(shop: Shop, user: User) -> None:
    answer = shop.token(user.login.upper())
    assert answer.status_code == 200
    token = answer.json()
    assert set(token) == {"access_token", "token_type", "expires_in"}
    assert token["token_type"] == "bearer" and token["expires_in"] > 0


def test_a_wrong_login_or_password_is_401(shop: Shop, user: User) -> None:
    assert shop.token(user.login, "wrong password").status_code == 401
    assert shop.token("nobody-" + user.login).status_code == 401


def raw(shop: Shop, service: str, *lines: str, body: bytes = b"") -> int:
    """The status of a request that is sent as it stands."""
    with socket.create_connection(("127.0.0.1", shop.port_base + OFFSET[service]), timeout=PATIENCE) as there:
        there.sendall("\r\n".join((*lines, "", "")).encode() + body)
        return int(there.recv(64)[9:12])


@pytest.mark.parametrize("service", SERVICES)
def test_headers_are_bounded_and_one_host_of_ours_is_named(shop: Shop, service: str) -> None:
    get, host = f"GET {PROTECTED[service]} HTTP/1.1", f"Host: 127.0.0.1:{shop.port_base}"
    assert raw(shop, service, get, host) == 401
    assert raw(shop, service, get, host, *(f"X-{number}: 1" for number in range(100))) == 431
    assert raw(shop, service, get, host, "X: " + "y" * 33_000) == 431
    assert raw(shop, service, get, host, host) == 400
    assert raw(shop, service, get, "Host: evil.example") == 421
    for path in ("/health/live", "/health/serving", "/metrics"):
        assert raw(shop, service, f"GET {path} HTTP/1.1", "Host: evil.example") == 200


def test_an_upgrade_is_ignored_and_head_is_answered(shop: Shop, user: User) -> None:
    form = f"grant_type=password&username={user.login}&password={PASSWORD}".replace(" ", "+").encode()
    upgrade = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    )
    head = (
        "Host: localhost",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(form)}",
    )
    assert raw(shop, "user", "POST /token HTTP/1.1", *head, *upgrade, body=form) == 200
    answer = user.ask("HEAD", "/users/me")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == user.get("/users/me").headers["Content-Length"]


def test_of_one_user_fifty_wait_and_an_order_is_placed_all_the_same(shop: Shop, user: User) -> None:
    path, here = f"/orders?flow={uuid4()}&wait=", f"Authorization: Bearer {user.token}"
    lines = (f"GET {path}30 HTTP/1.1", "Host: localhost", here, "", "")
    order = "127.0.0.1", shop.port_base + OFFSET["order"]
    with ExitStack() as open_ones:
        waiting = [
            open_ones.enter_context(socket.create_connection(order, timeout=PATIENCE)) for _ in range(51)
        ]
        for one in waiting:
            one.sendall("\r\n".join(lines).encode())
        answered, _, _ = select(waiting, (), (), PATIENCE)
        assert [one.recv(12) for one in answered] == [b"HTTP/1.1 429"]
        refused = user.get(f"{path}1")
        assert (refused.status_code, code(refused)) == (429, "too_many_waits")
        assert int(refused.headers["Retry-After"]) >= 1
        assert user.order("1.00", wait=10).status_code == 202
        assert shop.user().get(f"{path}1").status_code == 200


def test_after_five_failures_429_with_retry_after(shop: Shop, user: User) -> None:
    wrong = [shop.token(user.login, "wrong password").status_code for _ in range(5)]
    answer = shop.token(user.login)
    assert (wrong, answer.status_code) == ([401] * 5, 429)
    assert int(answer.headers["Retry-After"]) > 0
    code(answer)


def test_a_success_starts_the_count_of_failures_again(shop: Shop, user: User) -> None:
    for password in ("wrong password", PASSWORD) * 5:
        assert shop.token(user.login, password).status_code == (200 if password == PASSWORD else 401)


def test_me_is_as_at_registration(shop: Shop, user: User) -> None:
    me = user.get("/users/me")
    assert me.status_code == 200
    assert set(me.json()) == {"id", "login", "email", "created_at"}
    assert (me.json()["id"], me.json()["login"]) == (user.id, user.login)


def test_tokens_are_verified_with_published_keys(shop: Shop, user: User, log: Log) -> None:
    """The key set and the topic tell the same public key, and it is the one."""
    kid = jwt.get_unverified_header(user.token)["kid"]
    keys = shop.ask("GET", "user", "/.well-known/jwks.json").json()["keys"]
    (told,) = (key for key in keys if key["kid"] == kid)
    assert not {"d", "k"} & set(told)
    published = log.until(lambda event: event.type == "SigningKeyPublished" and event.key == kid)
    for key in (told, published[0].data["public_jwk"]):
        options: Any = {"verify_aud": False}
        claims = jwt.decode(user.token, jwt.PyJWK(key).key, algorithms=["EdDSA"], options=options)
        assert claims["sub"] == user.id


@pytest.mark.parametrize("way", ["password", "sessions"])
def test_what_ends_sessions_is_heard_by_every_service(shop: Shop, log: Log, way: str) -> None:
    user = shop.user()
    paths = ("/users/me", "/account", "/orders", "/notifications")
    until(lambda: user.get("/account"), lambda answer: answer.status_code == 200)
    if way == "password":
        for new, status in (("password1", 422), ("wrong horse battery", 403)):
            body = {"current": "not mine", "new": new}
            assert user.ask("PUT", "/users/me/password", json=body).status_code == status
        body = {"current": PASSWORD, "new": "wrong horse battery"}
        answer = user.ask("PUT", "/users/me/password", json=body)
    else:
        assert code(user.ask("POST", "/users/me/sessions/end")) == "idempotency_key_missing"
        answer = user.post("/users/me/sessions/end")
    assert (answer.status_code, answer.content) == (204, b"")
    assert user.get("/users/me").status_code == 401
    again = shop.token(user.login, "wrong horse battery" if way == "password" else PASSWORD)
    until(lambda: {user.get(path).status_code for path in paths}, lambda statuses: statuses == {401})
    user = replace(user, token=again.json()["access_token"])
    assert {user.get(path).status_code for path in paths} == {200}
    events = log.until(lambda event: event.type == "SessionsEnded" and event.key == user.id)
    assert set(events[0].data) == {"user_id", "not_before"} and is_utc(events[0].data["not_before"])


# -- the billing service ---------------------------------------------------------------------------


def test_an_account_comes_with_the_registration(shop: Shop, user: User) -> None:
    answer = until(lambda: user.get("/account"), lambda answer: answer.status_code != 404)
    account = answer.json()
    assert set(account) == {"id", "user_id", "balance", "currency", "created_at"}
    assert (account["user_id"], account["balance"], account["currency"]) == (user.id, "0.00", "EUR")
    assert UUID(account["id"]) and is_utc(account["created_at"])


def test_before_the_account_is_there_404_and_deposits_say_when_to_retry(
    system: ThrowawaySystem, shop: Shop, style: str
) -> None:
    if style != COLLABORATION:
        pytest.skip(f"in style {style} the account is opened by a call, and Kafka does not keep it back")
    with stopped(system, "kafka"):
        user = shop.user()
        assert user.get("/account").status_code == 404
        answer = user.deposit("1.00", "early")
        assert answer.status_code == 404 and int(answer.headers["Retry-After"]) > 0
    assert until(lambda: user.deposit("1.00", "early"), lambda answer: answer.status_code == 201)


@pytest.mark.parametrize(("path", "after"), [("deposits", "500.50"), ("withdrawals", "299.50")])
def test_money_moves(customer: User, path: str, after: str) -> None:
    answer = customer.post(f"/account/{path}", {"amount": "100.50"})
    assert answer.status_code == 201
    assert set(answer.json()) == {"id", "amount", "balance"}
    assert (answer.json()["amount"], answer.json()["balance"], customer.balance()) == ("100.50", after, after)


def test_too_little_money_is_409_with_its_numbers(customer: User) -> None:
    answer = customer.withdraw("400.01")
    assert (answer.status_code, code(answer)) == (409, "insufficient_funds")
    assert (answer.json()["balance"], answer.json()["requested"]) == ("400.00", "400.01")
    assert customer.balance() == "400.00"


def test_entries_tell_every_movement_newest_first_by_the_events_ids(customer: User, log: Log) -> None:
    order = customer.order("100.00").json()["id"]
    customer.withdraw("50.00")
    customer.cancel(order)
    entries = until(lambda: customer.items("/account/entries"), lambda found: len(found) == 4)
    fields = ("kind", "amount", "balance", "order_id")
    assert [tuple(entry[name] for name in fields) for entry in entries] == [
        ("refund", "100.00", "350.00", order),
        ("withdrawal", "50.00", "250.00", None),
        ("payment", "100.00", "300.00", order),
        ("deposit", "400.00", "400.00", None),
    ]
    assert all(set(entry) == {"id", *fields, "at"} and is_utc(entry["at"]) for entry in entries)
    ids = {entry["id"] for entry in entries}
    log.until(lambda event: event.headers["ce_id"] in ids, 4)


# -- the order service -----------------------------------------------------------------------------

ORDER = {"id", "user_id", "price", "description", "status", "reason", "created_at", "updated_at"}


def test_an_order_is_taken_with_202_and_a_location(user: User) -> None:
    answer = user.post("/orders", {"price": "100", "description": "a teapot"})
    order = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/orders/{order['id']}")
    assert set(order) == ORDER
    assert (order["user_id"], order["price"], order["description"]) == (user.id, "100.00", "a teapot")
    assert (order["status"], order["reason"]) == ("created", None)
    assert UUID(order["id"]) and is_utc(order["created_at"]) and is_utc(order["updated_at"])


@pytest.mark.parametrize(
    ("price", "status", "reason"),
    [("400.00", "confirmed", None), ("400.01", "rejected", "insufficient_funds")],
)
def test_who_prefers_to_wait_gets_201_once_it_is_decided(
    customer: User, price: str, status: str, reason: str | None
) -> None:
    answer = customer.order(price)
    assert answer.status_code == 201
    assert (answer.json()["status"], answer.json()["reason"]) == (status, reason)
    assert answer.headers["Location"] == f"/orders/{answer.json()['id']}"


def test_what_is_not_decided_in_time_is_202_and_a_repeat_waits_anew(
    system: ThrowawaySystem, customer: User
) -> None:
    with stopped(system, "billing"):
        assert customer.order("1.00", "once", wait=1).status_code == 202
    assert customer.order("1.00", "once").json()["status"] == "confirmed"


def test_a_description_has_500_characters_at_most(user: User) -> None:
    assert user.post("/orders", {"price": "1.00", "description": "x" * 500}).status_code == 202
    answer = user.post("/orders", {"price": "1.00", "description": "x" * 501})
    assert places(answer) == {"#/description"}


def test_reading_an_order_waits_until_it_is_decided(customer: User) -> None:
    order = customer.order("1.00", wait=0).json()
    decided = customer.get(f"/orders/{order['id']}", wait=10)
    assert (decided.status_code, set(decided.json())) == (200, ORDER)
    assert decided.json()["status"] == "confirmed"


def test_a_paid_order_is_cancelled_with_202_and_then_refunded(customer: User) -> None:
    order = customer.order("100.00").json()["id"]
    answer = customer.cancel(order)
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["reason"]) == ("cancelled", "by_user")
    until(lambda: customer.get(f"/orders/{order}").json(), lambda seen: seen["status"] == "refunded")
    until(customer.balance, lambda balance: balance == "400.00")


def test_an_order_cancelled_before_it_is_decided_is_cancelled_at_once(
    system: ThrowawaySystem, customer: User
) -> None:
    with stopped(system, "billing"):
        order = customer.order("100.00", wait=0).json()["id"]
        assert customer.cancel(order).json()["status"] == "cancelled"
        again = customer.cancel(order)
        assert (again.status_code, code(again)) == (409, "already_cancelled")
    until(lambda: customer.get(f"/orders/{order}").json(), lambda seen: seen["status"] == "refunded")
    assert customer.balance() == "400.00"


@pytest.mark.parametrize("status", ["rejected", "refunded"])
def test_what_is_over_is_409_to_cancel(customer: User, status: str) -> None:
    order = customer.order("500.00" if status == "rejected" else "100.00").json()["id"]
    if status == "refunded":
        customer.cancel(order)
    until(lambda: customer.get(f"/orders/{order}").json(), lambda seen: seen["status"] == status)
    answer = customer.cancel(order)
    assert (answer.status_code, code(answer)) == (409, f"already_{status}")


def test_an_orders_changes_are_streamed(customer: User) -> None:
    order = customer.order("1.00").json()["id"]
    headers = {"Authorization": f"Bearer {customer.token}"}
    url = customer.shop.url("order", f"/orders/{order}/events")
    with customer.shop.http.stream("GET", url, headers=headers, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert next(line for line in answer.iter_lines() if "confirmed" in line)


# -- the notification service ----------------------------------------------------------------------


def test_each_outcome_is_told_once_newest_first_and_mailed(system: ThrowawaySystem, customer: User) -> None:
    paid, refused = (customer.order(price).json()["id"] for price in ("100.00", "500.00"))
    customer.notified(2)
    customer.cancel(paid)
    told = customer.notified(3)
    assert [(one["kind"], one["order_id"]) for one in told] == [
        ("order_refunded", paid),
        ("order_rejected", refused),
        ("order_confirmed", paid),
    ]
    fields = {"id", "user_id", "order_id", "kind", "subject", "text", "channel", "status"}
    for one in told:
        assert set(one) == fields | {"created_at", "sent_at"}
        assert one["user_id"] == customer.id and is_utc(one["created_at"]) and is_utc(one["sent_at"])
        assert customer.get(f"/notifications/{one['id']}").json() == one
    mails = [mail.read_text() for mail in system.home.rglob("new/*")]
    assert len([mail for mail in mails if f"{customer.login}@example.com" in mail]) == 3


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/orders", "/account/entries", "/notifications"])
def test_a_page_has_items_and_next_and_its_cursor_goes_on(customer: User, path: str) -> None:
    for _ in range(3):
        customer.order("1.00")
    customer.notified(3)
    whole = customer.items(path)
    seen: list[Json] = []
    cursor: Json = {}
    while True:
        page = customer.get(path, limit=2, **cursor).json()
        assert set(page) == {"items", "next"} and len(page["items"]) <= 2
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == whole and len(whole) == (4 if "entries" in path else 3)


def test_a_page_has_50_items_unless_asked_for_up_to_200(customer: User) -> None:
    for _ in range(50):
        customer.deposit("1.00")
    assert len(customer.items("/account/entries")) == 50
    assert len(customer.items("/account/entries?limit=200")) == 51


# -- reading one's own writes, overload ------------------------------------------------------------


def test_a_get_waits_until_its_service_has_applied_the_flow(user: User) -> None:
    answer = user.get("/account", flow=user.flow, wait=10)
    assert (answer.status_code, answer.headers["Flow-Applied"]) == (200, "true")


def test_a_flow_that_is_not_heard_of_in_time_is_said_so(customer: User) -> None:
    answer = customer.get("/account", flow=str(uuid4()), wait=1)
    assert (answer.status_code, answer.headers["Flow-Applied"]) == (200, "false")


def test_what_cannot_be_decided_in_time_is_turned_away_while_reads_and_deposits_go_on(
    system: ThrowawaySystem, customer: User
) -> None:
    """A repeated order is no new one: it has its first answer. Afterwards all recovers by itself."""
    with stopped(system, "billing"):
        first = customer.order("0.01", "before", wait=0)
        turned_away = until(lambda: customer.order("0.01", wait=0), lambda answer: answer.status_code != 202)
        assert (turned_away.status_code, code(turned_away)) == (503, "overloaded")
        assert int(turned_away.headers["Retry-After"]) > 0
        assert customer.order("0.01", "before", wait=0).content == first.content
        assert customer.get("/orders").status_code == 200
    assert customer.deposit("1.00").status_code == 201
    until(lambda: customer.order("0.01"), lambda answer: answer.status_code == 201)


# -- events ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(shop: Shop, log: Log) -> tuple[User, list[Event]]:
    """A user who did everything once, and all that was published about it."""
    user = shop.customer()
    paid = user.order("100.00").json()["id"]
    user.order("500.00")
    user.withdraw("50.00")
    user.cancel(paid)
    user.notified(3)
    return user, log.until(lambda event: event.key == user.id, 13)


FACTS = {
    "UserRegistered": ("user", 1, {"user_id", "login", "email"}),
    "AccountCreated": ("billing", 1, {"account_id", "user_id", "currency"}),
    "MoneyDeposited": ("billing", 1, {"entry_id", "user_id", "amount", "balance"}),
    "MoneyWithdrawn": ("billing", 1, {"entry_id", "user_id", "amount", "balance"}),
    "PaymentConfirmed": ("billing", 1, {"payment_id", "order_id", "user_id", "amount", "balance"}),
    "PaymentRejected": ("billing", 1, {"order_id", "user_id", "amount", "reason", "balance"}),
    "PaymentRefunded": ("billing", 1, {"payment_id", "order_id", "user_id", "amount", "balance"}),
    "OrderCreated": ("order", 2, {"order_id", "user_id", "price", "description", "decide_by"}),
    "OrderCancelled": ("order", 1, {"order_id", "user_id", "reason"}),
    "NotificationSent": ("notification", 3, {"notification_id", "user_id", "order_id", "kind", "channel"}),
}
"""Service, how often in the story, data."""

Story = tuple[User, list[Event]]


def test_the_story_publishes_these_facts_and_no_others(story: Story) -> None:
    assert Counter(event.type for event in story[1]) == {name: many for name, (_, many, _) in FACTS.items()}


@pytest.mark.parametrize("type", FACTS)
def test_a_fact_is_on_its_services_topic_with_its_data_and_headers(story: Story, type: str) -> None:
    user, events = story
    service, _, fields = FACTS[type]
    for event in (event for event in events if event.type == type):
        headers = event.headers
        assert event.topic == f"{service}-events"
        assert set(event.data) == fields and event.data["user_id"] == user.id == headers["ce_partitionkey"]
        assert headers["content-type"] == "application/json"
        assert headers["ce_specversion"] == "1.0"
        assert headers["ce_source"] == f"/{service}"
        assert headers["ce_dataschema"] == f"urn:choreo:{type}:1"
        assert headers["ce_subject"] in event.data.values()
        assert UUID(headers["ce_id"]) and UUID(headers["ce_correlationid"]) and is_utc(headers["ce_time"])
        assert re.fullmatch(r"[0-9]{20}", headers["ce_sequence"])
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", headers["traceparent"])


def test_money_in_events_is_an_integer_of_minor_units(story: Story) -> None:
    amounts = {
        (event.type, event.data.get("amount", event.data.get("price")), event.data.get("balance"))
        for event in story[1]
        if {"amount", "price"} & set(event.data)
    }
    assert amounts == {
        ("MoneyDeposited", 40000, 40000),
        ("OrderCreated", 10000, None),
        ("PaymentConfirmed", 10000, 30000),
        ("OrderCreated", 50000, None),
        ("PaymentRejected", 50000, 30000),
        ("MoneyWithdrawn", 5000, 25000),
        ("PaymentRefunded", 10000, 35000),
    }


def test_reasons_and_kinds_are_those_of_the_contract(story: Story) -> None:
    told = [event.data.get("reason") or event.data.get("kind") for event in story[1]]
    assert Counter(filter(None, told)) == {
        "insufficient_funds": 1,
        "by_user": 1,
        "order_confirmed": 1,
        "order_rejected": 1,
        "order_refunded": 1,
    }


def test_sequences_grow_per_key_and_source(story: Story) -> None:
    for topic in TOPICS:
        sequences = [int(event.headers["ce_sequence"]) for event in story[1] if event.topic == topic]
        assert sequences == sorted(set(sequences)) and sequences


def test_a_flow_is_one_root_and_what_follows_from_it(story: Story) -> None:
    """Registration, deposit, two orders, withdrawal, cancel."""
    events = {event.headers["ce_id"]: event for event in story[1]}
    roots = [event for event in events.values() if "ce_causationid" not in event.headers]
    assert Counter(event.type for event in roots) == {
        "UserRegistered": 1,
        "MoneyDeposited": 1,
        "OrderCreated": 2,
        "MoneyWithdrawn": 1,
        "OrderCancelled": 1,
    }
    assert len({event.flow for event in roots}) == 6
    for event in events.values():
        cause = event.headers.get("ce_causationid")
        assert cause is None or events[cause].flow == event.flow


def test_flow_id_is_the_correlation_id_of_what_follows(customer: User, log: Log) -> None:
    flow = customer.order("1.00").headers["Flow-Id"]
    found = log.until(lambda event: event.flow == flow, 3)
    assert {event.type for event in found} == {"OrderCreated", "PaymentConfirmed", "NotificationSent"}
    registered = log.until(lambda event: event.flow == customer.flow, 2)
    assert {event.type for event in registered} == {"UserRegistered", "AccountCreated"}


def test_a_clients_trace_goes_on_in_the_events(user: User, log: Log) -> None:
    trace = uuid4().hex
    user.post("/orders", {"price": "1.00"}, traceparent=f"00-{trace}-{trace[:16]}-01")
    log.until(lambda event: event.headers["traceparent"][3:35] == trace)


def test_one_order_is_one_trace_over_all_services_with_the_times_of_choreo_trace(
    system: ThrowawaySystem, customer: User, style: str
) -> None:
    trace, caller = uuid4().hex, uuid4().hex[:16]
    headers = {"traceparent": f"00-{trace}-{caller}-01", "Prefer": "wait=10"}
    order = customer.post("/orders", {"price": "1.00"}, **headers).json()["id"]
    customer.notified(1)
    with receiver() as received:
        environment = system.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint}
        exported = choreo("otel", "--once", "--from", "-1m", **environment)
    assert exported.returncode == 0, exported.stderr
    spans = received.of(trace)
    assert_is_one_order(spans, caller, has_kafka(style))
    (flow,) = json.loads(choreo("trace", order, "--json", **system.environment).stdout)["flows"]
    assert_bars_are_hops(spans, flow)
    (asked,) = (span for span in spans if span.kind == "request")
    assert asked.attributes == {"http.response.status_code": 202}


def test_a_repeated_request_publishes_nothing_new(customer: User, log: Log) -> None:
    flow = customer.order("1.00", "once").headers["Flow-Id"]
    customer.order("1.00", "once")
    after = customer.withdraw("1.00").headers["Flow-Id"]
    log.until(lambda event: event.flow == after)
    found = log.until(lambda event: event.flow == flow and event.topic != "notification-events", 2)
    assert sorted(event.type for event in found) == ["OrderCreated", "PaymentConfirmed"]


def test_a_record_may_repeat_only_byte_for_byte(story: Story, log: Log) -> None:
    first: dict[str, Event] = {}
    for event in log.until(lambda event: True):
        known = first.setdefault(event.headers["ce_id"], event)
        assert (known.raw, known.headers, known.key) == (event.raw, event.headers, event.key)


def test_keys_are_user_ids_but_for_signing_keys(story: Story, log: Log) -> None:
    for event in log.until(lambda event: True):
        assert event.key == event.data["kid" if event.type == "SigningKeyPublished" else "user_id"]


def test_a_signing_key_is_published_with_its_end(log: Log) -> None:
    for event in log.until(lambda event: event.type == "SigningKeyPublished"):
        assert set(event.data) == {"kid", "public_jwk", "not_after"}
        assert is_utc(event.data["not_after"]) and "d" not in event.data["public_jwk"]


def test_no_password_is_in_the_log(story: Story, log: Log) -> None:
    assert not [event for event in log.until(lambda event: True) if PASSWORD.encode() in event.raw]


def test_topics_keep_facts_for_ever(system: ThrowawaySystem, needs_kafka: None) -> None:
    admin = AdminClient(observer(system.home))
    wanted = [ConfigResource(ResourceType.TOPIC, topic) for topic in TOPICS]
    for described in admin.describe_configs(wanted).values():
        config = described.result(PATIENCE)
        assert config["retention.ms"].value == config["retention.bytes"].value == "-1"
        assert config["cleanup.policy"].value == "delete"


# -- the end: these stop the system ----------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_not_ready_while_the_broker_does_not_work(
    system: ThrowawaySystem, shop: Shop, service: str, needs_kafka: None
) -> None:
    def ready() -> int:
        try:
            return shop.ask("GET", service, "/health/ready").status_code
        except httpx2.TransportError:
            return 0  # a consumer that died with the broker takes its process along; another comes up

    with stopped(system, "kafka"):
        until(ready, lambda status: status == 503)
    until(ready, lambda status: status == 200)


def test_after_ctrl_c_nothing_is_left_and_yesterdays_data_is_there_again(
    system: ThrowawaySystem, customer: User
) -> None:
    """First answers, too, are still the answers."""
    first = customer.deposit("1.00", "yesterday")
    supervisor = psutil.Process(system.supervisor_pid)
    processes = supervisor.children(recursive=True)
    os.kill(supervisor.pid, signal.SIGINT)
    assert supervisor.wait(timeout=10) == 0
    assert psutil.wait_procs(processes, timeout=0)[1] == []
    system.start()
    again = customer.deposit("1.00", "yesterday")
    assert (first.status_code, first.content) == (201, again.content)
    assert first.headers["Flow-Id"] == again.headers["Flow-Id"]
    assert customer.balance() == "401.00"
