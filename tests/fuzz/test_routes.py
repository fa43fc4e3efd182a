"""Every route of the OpenAPI documents, so that a new one cannot be forgotten: whose things it gives, what it
asks for first, and what it does with bad input.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest

from choreo.chassis.http import auth
from choreo.cli.programmes.docs import documents
from choreo.demo.client import Customer
from tests.fuzz.running import ENDS_SESSIONS, Served
from tests.services import SERVICES

Json = dict[str, Any]
Somebody = tuple[Customer, Mapping[str, str]]
"""With the ids of what is theirs, by service."""

DOCUMENTS: dict[str, Json] = {
    service: json.loads(text)
    for service in SERVICES
    for name, text in documents().items()
    if name == f"{service}.openapi.json"
}
OPERATIONS = [
    pytest.param((service, method, path, operation), id=f"{service} {method} {path}")
    for service, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method, operation in methods.items()
]


@pytest.fixture(scope="module")
def ada(running: Served) -> Somebody:
    return running.busy_customer()


@pytest.fixture(scope="module")
def eve(running: Served) -> Somebody:
    return running.busy_customer()


def example(service: str, operation: Json) -> tuple[str | None, Json]:
    """The content type of the body it takes, and an example of it."""
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        name = content["schema"]["$ref"].rpartition("/")[2]
        return content_type, DOCUMENTS[service]["components"]["schemas"][name]["examples"][0]
    return None, {}


class Asking:
    """One operation, asked over HTTP as it should be, but for what a test changes."""

    def __init__(self, running: Served, service: str, method: str, path: str, operation: Json) -> None:
        self.http, self.url, self.service = running.http, running.urls[service], service
        self.method, self.path, self.operation = method, path, operation
        self.content_type, self.body = example(service, operation)

    def send(self, token: str | None, id: str, **changes: Any) -> httpx2.Response:
        headers = {"Idempotency-Key": uuid4().hex}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if self.content_type:
            headers["Content-Type"] = self.content_type
        headers |= changes.pop("headers", {})
        content = changes.pop("content", self._content())
        path = self.path.replace("{id}", id)
        return self.http.request(self.method, self.url + path, headers=headers, content=content, **changes)

    def _content(self) -> bytes:
        if self.content_type == "application/x-www-form-urlencoded":
            return str(httpx2.QueryParams(self.body)).encode()
        return json.dumps(self.body).encode() if self.content_type else b""


@pytest.fixture(params=OPERATIONS)
def asking(running: Served, request: pytest.FixtureRequest) -> Asking:
    return Asking(running, *request.param)


def is_a_problem(answer: httpx2.Response, *statuses: int) -> Json:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["type"].startswith("urn:choreo:problem:") and problem["detail"]
    for telling in ("Traceback", 'File "', "sqlalchemy", "psycopg", "pydantic"):
        assert telling not in answer.text
    return problem


SECURITY = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def is_guarded(answer: httpx2.Response) -> None:
    told = {name: answer.headers.get(name) for name in SECURITY}
    assert told == SECURITY
    assert "server" not in answer.headers


def writes(running: Served, service: str) -> dict[str, int]:
    """How often the service has written anything a request could make it write."""
    ((journal, outbox),) = running.shop.rows(
        service, "SELECT (SELECT count(*) FROM journal), (SELECT last_value FROM outbox_position_seq)"
    )
    return {"journal": journal, "outbox": outbox}


def test_nobody_sees_or_moves_what_is_somebody_elses(
    running: Served, asking: Asking, ada: Somebody, eve: Somebody
) -> None:
    hers = ada[0]
    theirs = running.run(running.shop.customer()) if asking.path in ENDS_SESSIONS else eve[0]
    answer = asking.send(theirs.token, ada[1].get(asking.service, str(uuid4())))
    is_guarded(answer)
    secrets = [str(hers.id), hers.login, *ada[1].values()]
    assert not [secret for secret in secrets if secret in answer.text]
    if "{id}" in asking.path:
        is_a_problem(answer, 404)
        if id := eve[1].get(asking.service):  # of another service nobody has made anything here
            own = asking.send(theirs.token, id)
            assert own.status_code < 300 and id in own.text, "it is there for whom it belongs to"


def forgeries(good: str) -> Iterator[tuple[str, str]]:
    """Tokens that are none, as somebody makes them who knows all that is public."""
    claims = jwt.decode(good, options={"verify_signature": False})
    kid = jwt.get_unverified_header(good)["kid"]
    yield "none", jwt.encode(claims, "", algorithm="none", headers={"kid": kid})
    yield "hmac", jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": kid})
    head, body, signature = good.split(".")
    yield "cut", f"{head}.{body}."
    yield "altered", f"{head}.{body[:-2]}AA.{signature}"
    stranger = auth.generate_key(kid)
    yield "other key", auth.sign(stranger, uuid4(), now=claims["iat"])


def test_a_route_is_open_only_if_the_document_says_so(running: Served, asking: Asking, ada: Somebody) -> None:
    id = ada[1].get(asking.service, str(uuid4()))
    tokens = [None, *(token for _, token in forgeries(ada[0].token))]
    before = writes(running, asking.service)
    for token in tokens if "security" in asking.operation else ():
        answer = asking.send(token, id)
        is_a_problem(answer, 401)
        is_guarded(answer)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if "security" in asking.operation:
        assert writes(running, asking.service) == before
    else:
        public = (
            "/users",
            "/token",
            "/.well-known/jwks.json",
            "/health/live",
            "/health/serving",
            "/health/ready",
            "/metrics",
        )
        assert asking.path in public


BODIES: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("half", b"{", 400),
    ("NaN", b'{"%s": NaN}', 400),
    ("infinite", b'{"%s": -Infinity}', 400),
    ("twice", b'{"%s": "1.00", "%s": "1.00"}', 400),
    ("not UTF-8", b'{"%s": "\xff"}', 400),
    ("UTF-16", '{"%s": "1.00"}'.encode("utf-16"), 400),
    ("deep", b"[" * 20_000, 400),
    ("large", b'{"%s": "' + b"1" * 200_000 + b'"}', 413),
    ("list", b"[]", 422),
    ("null", b"null", 422),
    ("huge number", b'{"%s": 1e30}', 422),
    ("huge digits", b'{"%s": 1000000000000000000000000000000}', 422),
    ("boolean", b'{"%s": true}', 422),
    ("null field", b'{"%s": null}', 422),
    ("list field", b'{"%s": ["1.00"]}', 422),
    ("object field", b'{"%s": {"a": 1}}', 422),
    ("NUL", b'{"%s": "1\\u0000"}', 422),
    ("half a pair", b'{"%s": "1\\ud800"}', 422),
    ("unknown field", b'{"%s": "1.00", "unknown": 1}', 422),
    ("half a pair in a name", b'{"\\ud800": 1}', 422),
]
MONEY: list[tuple[str, bytes, int]] = [
    ("third decimal", b'{"%s": "1.000"}', 422),
    ("third decimal as a number", b'{"%s": 1.001}', 422),
    ("negative", b'{"%s": -1}', 422),
    ("zero", b'{"%s": 0}', 422),
    ("a cent too much", b'{"%s": "1000000000.00"}', 422),
    ("underscore", b'{"%s": "1_000"}', 422),
    ("other digits", '{"%s": "١٢"}'.encode(), 422),
    ("exponent", b'{"%s": "1e2"}', 422),
    ("sign", b'{"%s": "+1"}', 422),
]
FORMS: list[tuple[str, bytes, int]] = [
    ("not UTF-8", b"grant_type=password&username=%ff&password=b", 400),
    ("twice", b"grant_type=password&username=a&username=b&password=c", 400),
    ("no form", b"&&&", 400),
    ("large", b"username=" + b"x" * 200_000, 413),
    ("NUL", b"grant_type=password&username=%00&password=b", 422),
    ("nothing", b"", 422),
    ("another grant", b"grant_type=implicit&username=a&password=b", 422),
]


def test_bad_input_is_refused_with_its_place_and_writes_nothing(
    running: Served, asking: Asking, ada: Somebody
) -> None:
    token, id = ada[0].token, ada[1].get(asking.service, str(uuid4()))
    before = writes(running, asking.service)
    for what, content, status in bad_bodies(asking):
        answer = asking.send(token, id, content=content)
        problem = is_a_problem(answer, status)
        is_guarded(answer)
        if status == 422:
            assert problem["errors"] and all(error["detail"] for error in problem["errors"]), what
    for parameter in asking.operation.get("parameters", []):
        if parameter["in"] == "query":
            for value in bad_values(parameter["name"]):
                answer = asking.send(token, id, params={parameter["name"]: value})
                (error,) = is_a_problem(answer, 422)["errors"]
                assert error["parameter"] == parameter["name"] and error["detail"]
        elif parameter["in"] == "header" and parameter["name"] == "idempotency-key":
            for key in ("", "ü", "x" * 256):
                is_a_problem(asking.send(token, id, headers={"Idempotency-Key": key.encode()}), 400)
        elif parameter["in"] == "path":
            for no_id in ("1", "%00", "..%2f", id + "0", "x" * 5000, "{}", "null"):
                is_a_problem(asking.send(token, no_id), 404)
    if asking.content_type:
        for other in ("text/plain", "application/xml", f"{asking.content_type}; charset=utf-16", ""):
            is_a_problem(asking.send(token, id, headers={"Content-Type": other}), 415)
        is_a_problem(asking.send(token, id, headers={"Content-Encoding": "gzip"}), 415)
    assert writes(running, asking.service) == before


def bad_bodies(asking: Asking) -> Iterator[tuple[str, bytes, int]]:
    if asking.content_type == "application/x-www-form-urlencoded":
        yield from FORMS
    elif asking.content_type:
        field = next(iter(asking.body)).encode()
        for what, content, status in BODIES + (MONEY if field in (b"price", b"amount") else []):
            yield what, content.replace(b"%s", field), status
    else:
        yield "large", b"x" * 200_000, 413


def bad_values(name: str) -> list[str]:
    numbers = ["-1", "1.5", "1e1", "", "x", "999", "10000000000000000000000", "NaN", "\0", "%D9%A1"]
    words = ["x", "", "a" * 5000, "MTc=", "-", "\0"]
    return words if name in ("cursor", "flow") else numbers


@pytest.mark.parametrize("service", SERVICES)
def test_whatever_is_answered_carries_the_security_headers(running: Served, service: str) -> None:
    url = running.urls[service]
    for method, path in (
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("DELETE", "/health/live"),
        ("OPTIONS", "/docs"),
        ("TRACE", "/health/live"),
    ):
        answer = running.http.request(method, url + path)
        is_guarded(answer)
        assert answer.status_code == 200 or is_a_problem(answer, 404, 405)
    page = running.http.get(url + "/docs").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page and "object-src 'none'" in page
