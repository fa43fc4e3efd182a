import asyncio
import json
import logging
import re
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import structlog
from openapi_spec_validator import validate

from choreo.chassis.http.edge import operations_alone
from choreo.chassis.http.problems import Problem
from choreo.chassis.observe import log
from choreo.chassis.observe.health import NotReady
from user_service.passwords import MOST_QUEUED, Passwords


@pytest.mark.asyncio
async def test_readiness_names_each_job_and_why_it_does_not_get_on(
    toy: Any, client: httpx2.AsyncClient
) -> None:
    consumer = toy.health.job("consumer")
    working = True

    async def database() -> None:
        if not working:
            raise NotReady("connection refused")

    async def broken() -> None:
        raise RuntimeError("dsn with a password")

    toy.health.probe("database", database, serving=True)
    starting = await client.get("/health/ready")
    assert starting.status_code == 503
    assert starting.headers["content-type"] == "application/problem+json"
    assert starting.json()["ready"] is False
    assert starting.json()["jobs"]["consumer"]["cause"] == "starting"

    consumer.got_on()
    ready = await client.get("/health/ready")
    assert ready.status_code == 200 and ready.json()["ready"] is True
    assert set(ready.json()["jobs"]) == {"consumer", "database"}
    assert all(job["since"].endswith("Z") for job in ready.json()["jobs"].values())

    working = False
    toy.health.probe("mail", broken)
    away = await client.get("/health/ready")
    assert away.status_code == 503
    assert away.json()["jobs"]["database"]["cause"] == "connection refused"
    assert "password" not in away.text
    assert (await client.get("/health/live")).status_code == 200


@pytest.mark.asyncio
async def test_traffic_asks_only_for_what_a_request_needs(toy: Any, client: httpx2.AsyncClient) -> None:
    toy.health.job("kernel", serving=True).got_on()
    toy.health.job("relay").held_up("Kafka is away")
    assert (await client.get("/health/ready")).status_code == 503
    serving = await client.get("/health/serving")
    assert serving.status_code == 200 and set(serving.json()["jobs"]) == {"kernel"}
    toy.health.job("kernel").held_up("the database is away")
    assert (await client.get("/health/serving")).status_code == 503


@pytest.mark.asyncio
async def test_the_port_of_one_process_has_health_and_metrics_alone(toy: Any) -> None:
    transport = httpx2.ASGITransport(operations_alone(toy.app, 8102))
    async with httpx2.AsyncClient(transport=transport) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await client.get(f"http://toy:8102{path}")).status_code == 200
        for path in ("/openapi.json", "/docs"):
            assert (await client.get(f"http://toy:8002{path}")).status_code == 200
            refused = await client.get(f"http://toy:8102{path}")
            assert (refused.status_code, refused.json()["type"]) == (404, "urn:choreo:problem:not_found")


@pytest.mark.asyncio
async def test_metrics_count_by_route_template(toy: Any, client: httpx2.AsyncClient) -> None:
    await client.get("/things/6f2f6f5c-1111-4222-8333-444455556666", headers=toy.headers)
    await client.get("/things/17")
    await client.request("BREW", "/coffee")
    text = (await client.get("/metrics")).text
    told = re.findall(
        r'^http_server_request_duration_seconds_count{http_request_method="(.+)",'
        r'http_response_status_code="(.+)",http_route="(.+)"} 1\.0$',
        text,
        re.MULTILINE,
    )
    assert {("GET", "200", "/things/{thing_id}"), ("GET", "401", "/things/{thing_id}")} <= {*told}
    assert ("_OTHER", "404", "unmatched") in told
    assert "process_resident_memory_bytes" in text


@pytest.mark.asyncio
async def test_the_document_is_valid_and_says_what_is_checked(toy: Any, client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    make = document["paths"]["/things"]["post"]
    assert make["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NewThing")
    assert make["security"] == [{"token": []}]
    assert {parameter["name"].lower() for parameter in make["parameters"]} == {
        "idempotency-key",
        "traceparent",
        "prefer",
    }
    assert set(make["responses"]) == {
        *("201", "400", "401", "409", "413", "415", "421", "422", "431", "500", "503")
    }
    assert list(make["responses"]["422"]["content"]) == ["application/problem+json"]
    login = document["paths"]["/login"]["post"]
    assert list(login["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]
    assert "security" not in login
    assert document["components"]["schemas"]["NewThing"]["additionalProperties"] is False
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "404" in document["paths"]["/things/{thing_id}"]["get"]["responses"]


async def test_the_page_for_people_asks_nobody_else_for_anything(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "//" not in policy and "default-src 'self'" in policy
    named = re.findall(r"""(?:src|href|url)[=:] ?['"]([^'"]+)""", page.text)
    assert len(named) == 4
    for path in named:
        assert path.startswith("/") and not path.startswith("//")
        answer = await client.get(path)
        assert answer.status_code == 200 and answer.content
    for outside in ("/../../core.py", "/%2e%2e/core.py", "/", ""):
        assert (await client.get(f"/docs/assets{outside}")).status_code == 404


@pytest.fixture
def our_logs(request: pytest.FixtureRequest) -> Any:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def test_logs_are_json_lines_without_secrets(our_logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("toy", terminal=False)
    structlog.contextvars.bind_contextvars(flow="f1")
    log.get().info("order placed", password="hunter2", Authorization="Bearer x")
    logging.getLogger("a.library").warning("lost %s", "broker")
    log.get().debug("not shown")
    try:
        password = "hunter2"
        raise ValueError("broken" + password[:0])
    except ValueError:
        log.get().exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["order placed", "lost broker", "failed"]
    assert all(line["flow"] == "f1" and line["service"] == "toy" and line["at"] for line in lines)
    assert lines[0]["password"] == lines[0]["Authorization"] == "[withheld]"
    assert lines[1]["logger"] == "a.library"
    assert "ValueError: broken" in lines[2]["exception"]
    assert "hunter2" not in json.dumps(lines[0])


@pytest.mark.parametrize("text", ["\x9b2J", "\u202egnp", "\x7f", "\ud800", "\x1b]0;mine\x07", "a\nb"])
def test_a_log_line_commands_no_terminal_and_never_fails(
    our_logs: None, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    log.configure("toy", terminal=False)
    log.get().warning("parked", error=f"no {text}", place=("order-events", 3))
    log.get().info("ordinary", city="Köln")
    odd, ordinary = capsys.readouterr().out.splitlines()
    assert odd.isprintable() and json.loads(odd)["error"] == f"no {text}"
    assert "Köln" in ordinary


def test_logs_on_a_terminal_show_no_variables(our_logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("toy", terminal=True)
    password = "hunter" + "2"
    try:
        raise ValueError(len(password))
    except ValueError:
        log.get().exception("failed")
    output = capsys.readouterr().out
    assert "ValueError" in output and "hunter2" not in output


@pytest.mark.asyncio
async def test_passwords_match_their_hash_only() -> None:
    passwords = Passwords()
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "correct horsf")
    assert not await passwords.matches(None, "nobody has this password")
    assert not await passwords.matches("no hash", "correct horse")
    passwords.close()


@pytest.mark.asyncio
async def test_a_storm_of_registrations_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords()
    monkeypatch.setattr(passwords, "_hasher", SimpleNamespace(hash=lambda password: password))
    asked = await asyncio.gather(
        *(passwords.hash("x", address=str(n)) for n in range(MOST_QUEUED + 5)), return_exceptions=True
    )
    refused = [answer for answer in asked if isinstance(answer, Problem)]
    assert (len(refused), refused[0].status) == (5, 503)
    assert await passwords.hash("x") == "x"
    passwords.close()
