"""The contract's checks: each one's answer, and which comes first."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from structlog.testing import capture_logs

from choreo.chassis.http.routes import Router

pytestmark = pytest.mark.asyncio

JSON = {"Content-Type": "application/json"}
GOOD = b'{"price": "100.00"}'
BIG = b" " * (64 * 1024) + GOOD


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"urn:choreo:problem:{code}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status and body["title"] and body["detail"]
    return body


async def test_a_good_request(toy: Any, client: httpx2.AsyncClient) -> None:
    answer = await client.post("/things", content=GOOD, headers=toy.headers | JSON)
    (call,) = toy.calls
    assert answer.status_code == 201
    assert answer.json() == {"id": str(call["cause"].id), "price": "100.00", "name": None}
    assert answer.headers["location"] == f"/things/{call['cause'].id}"
    assert (call["thing"].price, call["user"].user_id, call["wait"]) == (10000, toy.user_id, 0)


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ("token size type json key field", 401),
        ("size type json key field", 413),
        ("type json key field", 415),
        ("json key", 400),
        ("json", 400),
        ("key field", 400),
        ("field", 422),
    ],
)
async def test_checks_come_in_the_contracts_order(
    toy: Any, client: httpx2.AsyncClient, faults: str, status: int
) -> None:
    headers = toy.headers | JSON
    body = GOOD
    if "field" in faults:
        body = b'{"price": 0}'
    if "json" in faults:
        body = b"{"
    if "size" in faults:
        body = BIG
    if "type" in faults:
        headers["Content-Type"] = "text/plain"
    if "key" in faults:
        del headers["Idempotency-Key"]
    if "token" in faults:
        del headers["Authorization"]
    answer = await client.post("/things", content=body, headers=headers)
    assert answer.status_code == status
    assert toy.calls == []


async def test_a_key_is_asked_for_before_the_id_is_looked_at(toy: Any, client: httpx2.AsyncClient) -> None:
    headers = toy.headers
    malformed_id = "/things/17/break"
    assert_problem(await client.post(malformed_id, headers=headers), 404, "not_found")
    del headers["Idempotency-Key"]
    assert_problem(await client.post(malformed_id, headers=headers), 400, "idempotency_key_missing")
    assert_problem(await client.post(malformed_id), 401, "unauthorized")


async def test_large_bodies_by_length_and_chunked(toy: Any, client: httpx2.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(BIG), 1000):
            yield BIG[start : start + 1000]

    headers = toy.headers | JSON
    by_length = await client.post("/things", content=BIG, headers=headers)
    chunked = await client.post("/things", content=chunks(), headers=headers)
    for answer in (by_length, chunked):
        assert_problem(answer, 413, "body_too_large")
        assert answer.headers["connection"] == "close"
    just_fits = BIG[-64 * 1024 :]
    assert (await client.post("/things", content=just_fits, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 201),
        ("Application/JSON; charset=UTF-8", 201),
        ('application/json;charset="utf-8"', 201),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-8; charset=utf-8", 415),
        ("application/merge-patch+json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/json", 415),
        ("", 415),
    ],
)
async def test_content_types(toy: Any, client: httpx2.AsyncClient, media_type: str, status: int) -> None:
    answer = await client.post("/things", content=GOOD, headers=toy.headers | {"Content-Type": media_type})
    assert answer.status_code == status


async def test_compressed_bodies_are_not_read(toy: Any, client: httpx2.AsyncClient) -> None:
    headers = toy.headers | JSON | {"Content-Encoding": "gzip"}
    assert_problem(await client.post("/things", content=GOOD, headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize("key", ["", "   ", "x" * 256, "é", "a\tb"])
async def test_bad_idempotency_keys(toy: Any, client: httpx2.AsyncClient, key: str) -> None:
    headers = [*(toy.headers | JSON).items(), ("Idempotency-Key", key.encode())]
    headers = [(n, v) for n, v in headers if (n, v) != ("Idempotency-Key", "k")]
    answer = await client.post("/things", content=GOOD, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["type"].startswith("urn:choreo:problem:idempotency_key_")


async def test_a_command_id_is_derived_from_the_whole_request(toy: Any, client: httpx2.AsyncClient) -> None:
    async def id_of(path: str, **headers: str) -> UUID:
        await client.post(path, content=GOOD, headers=toy.headers | JSON | headers)
        cause: UUID = toy.calls[-1]["cause"].id
        return cause

    thing, other = uuid4(), uuid4()
    first = await id_of("/things")
    assert await id_of("/things") == first
    assert await id_of("/things", **{"Idempotency-Key": "l"}) != first
    broken = await id_of(f"/things/{thing}/break")
    assert await id_of(f"/things/{str(thing).upper()}/break") == broken
    assert await id_of(f"/things/{other}/break") != broken
    toy.user_id = uuid4()
    assert await id_of("/things") != first


SOME_ID = UUID("7f3b1c9e-52d4-4e0a-9c61-0d8a4b7e2f15")


@pytest.mark.parametrize(
    "id",
    ["17", "None", "%00", "..%2f", "{}", "x" * 36, SOME_ID.hex, f"urn:uuid:{SOME_ID}", f"{SOME_ID}%0A", "é"],
)
async def test_what_is_no_id_names_nothing(toy: Any, client: httpx2.AsyncClient, id: str) -> None:
    assert_problem(await client.get(f"/things/{id}", headers=toy.headers), 404, "not_found")
    assert toy.calls == []


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("WAIT = 10", 10),
        ('wait="10"', 10),
        ("respond-async, wait=10; x=y", 10),
        ("wait=10, wait=20", 10),
        ("wait=31", 30),
        ("wait=999999999", 30),
        ("wait=0", 0),
        ("wait", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=x", 0),
        ("nowait=10", 0),
        ('wait="10', 0),
        ("", 0),
    ],
)
async def test_prefer_is_a_wish(toy: Any, client: httpx2.AsyncClient, prefer: str, seconds: int) -> None:
    answer = await client.post("/things", content=GOOD, headers=toy.headers | JSON | {"Prefer": prefer})
    assert answer.status_code == 201
    assert toy.calls[-1]["wait"] == seconds


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("traceparent", "joined"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"00-{TRACE}-b7ad6b7169203331-00", True),
        (f"01-{TRACE}-b7ad6b7169203331-01-more", True),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", False),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", False),
        ("junk", False),
    ],
)
async def test_a_valid_trace_is_joined_and_who_calls_is_kept(
    toy: Any, client: httpx2.AsyncClient, traceparent: str, joined: bool
) -> None:
    await client.post("/things", content=GOOD, headers=toy.headers | JSON | {"traceparent": traceparent})
    cause = toy.calls[-1]["cause"]
    assert cause.trace_id == (TRACE if joined else cause.id.hex)
    assert cause.caller == (traceparent[36:55] if joined else None)
    assert cause.correlation_id == cause.id


async def test_problems_of_the_framework_have_the_same_shape(toy: Any, client: httpx2.AsyncClient) -> None:
    assert_problem(await client.get("/nowhere"), 404, "not_found")
    assert_problem(await client.get("/things/"), 404, "not_found")
    answer = await client.delete("/things", headers=toy.headers)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert_problem(await client.post("/docs"), 405, "method_not_allowed")


async def test_a_decisions_problem_carries_its_numbers(toy: Any, client: httpx2.AsyncClient) -> None:
    body = b'{"price": 1, "name": "sold out"}'
    answer = await client.post("/things", content=body, headers=toy.headers | JSON)
    assert assert_problem(answer, 409, "sold_out")["requested"] == "1.00"


async def test_a_bug_is_a_500_that_tells_nothing(toy: Any, client: httpx2.AsyncClient) -> None:
    body = b'{"price": 1, "name": "bug", "password": "hunter2-hunter2"}'
    with capture_logs() as lines:
        answer = await client.post("/things", content=body, headers=toy.headers | JSON)
    assert_problem(answer, 500, "internal_error")
    assert "hunter2" not in answer.text and "RuntimeError" not in answer.text
    assert [line["event"] for line in lines] == ["request failed", "request"]


async def test_a_layer_below_that_is_away_is_a_503(toy: Any, client: httpx2.AsyncClient) -> None:
    body = b'{"price": 1, "name": "away"}'
    answer = await client.post("/things", content=body, headers=toy.headers | JSON)
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "body",
    [
        b'{"price": "hunter2", "password": "hunter2"}',
        b'{"price": 1, "password": ["hunter2"], "hunter2 is it": 1}',
        b'{"password": "hunter2", "password": "hunter2"}',
        b'{"password": "hunter2\\ud800"}',
        b'{"password": "hunter2',
    ],
)
async def test_no_refusal_repeats_what_was_sent(toy: Any, client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/things", content=body, headers=toy.headers | JSON)
    assert answer.status_code in (400, 422)
    assert "hunter2" not in answer.text


async def test_forms_are_read_as_strictly(toy: Any, client: httpx2.AsyncClient) -> None:
    good = {"username": "ann", "password": "long enough"}
    assert (await client.post("/login", data=good)).status_code == 200
    assert toy.calls[-1]["form"].password == "long enough"
    for bad in ({"username": "ann"}, good | {"scope": "x"}, good | {"password": "short"}):
        refusal = await client.post("/login", data=bad)
        assert_problem(refusal, 422, "invalid_request")
        assert "short" not in refusal.text
    assert_problem(await client.post("/login", json=good), 415, "unsupported_media_type")
    twice = await client.post(
        "/login",
        content="username=a&username=b&password=long+enough",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert_problem(twice, 400, "malformed_body")


async def test_responses_that_send_themselves_pass(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/stream", headers={"Last-Event-ID": "7"})
    assert answer.text == "7"


async def test_half_an_answer_is_broken_off(client: httpx2.AsyncClient) -> None:
    with pytest.raises(RuntimeError) as error:
        await client.get("/half")
    assert error.type is RuntimeError and not error.value.args, "the first error, not one of a second answer"


async def test_a_client_that_leaves_is_answered_nothing(toy: Any) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    authorization = toy.headers["Authorization"].encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/things",
        "query_string": b"",
        "http_version": "1.1",
        "headers": [(b"host", b"toy"), (b"authorization", authorization)],
    }
    await toy.app(scope, receive, send)
    assert sent == []


async def test_every_answer_carries_the_security_headers(toy: Any, client: httpx2.AsyncClient) -> None:
    for path in ("/things", "/nowhere", "/health/live", "/docs", "/openapi.json"):
        answer = await client.get(path, headers=toy.headers)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert [name for name in answer.headers if name.startswith("x-")] == ["x-content-type-options"]


async def test_an_endpoint_cannot_forget_who_asks() -> None:
    with pytest.raises(TypeError, match="User"):

        @Router().get("/secrets")
        async def secrets() -> None: ...


async def test_an_endpoint_cannot_ask_for_what_nothing_fills() -> None:
    with pytest.raises(TypeError, match="colour"):

        @Router(public=True).get("/paint")
        async def paint(colour: str) -> None: ...
