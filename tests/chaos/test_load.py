"""What customers make of the answers they get, and of those they do not get."""

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import httpx2
import pytest

from choreo.chaos import load
from choreo.chaos.history import Request
from choreo.chaos.load import Load, Rates, ask, verdict
from choreo.chaos.offers import Offer, offers_in

LATER = {"Retry-After": "1"}
Met = httpx2.Response | httpx2.TransportError


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_FIRST_PAUSE", 0.0)


def an_order() -> Request:
    return Request("order", "order 1", "ada", 10_00, invoked=time.time())


def meeting(*met: Met) -> Callable[[], Awaitable[httpx2.Response]]:
    answers = iter(met)

    async def send() -> httpx2.Response:
        answer = next(answers)
        if isinstance(answer, httpx2.TransportError):
            raise answer
        return answer

    return send


def created(id: str = "order-id") -> httpx2.Response:
    return httpx2.Response(202, json={"id": id})


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("order", httpx2.Response(202), "ok"),
        ("deposit", httpx2.Response(404, headers=LATER), "not yet"),
        ("deposit", httpx2.Response(404), "no"),
        ("order", httpx2.Response(401), "no"),
        ("order", httpx2.Response(422), "no"),
        ("order", httpx2.Response(409, json={"type": "urn:choreo:problem:in_flight"}), "lost"),
        ("cancel", httpx2.Response(409, json={"type": "urn:choreo:problem:in_flight"}), "lost"),
        ("cancel", httpx2.Response(409, json={"type": "urn:choreo:problem:already_rejected"}), "no"),
        ("register", httpx2.Response(409), "no"),
        ("other", httpx2.Response(409), "no"),
        ("order", httpx2.Response(500), "lost"),
        ("order", httpx2.Response(503, headers=LATER), "lost"),
        ("register", httpx2.Response(429, headers=LATER), "lost"),
    ],
)
def test_an_answer_says_what_became_of_the_attempt(kind: str, answer: httpx2.Response, expected: str) -> None:
    request = an_order()
    request.kind = kind  # type: ignore[assignment]
    assert verdict(request, answer) == expected


@pytest.mark.parametrize(
    ("met", "patience", "expected"),
    [
        ([created()], 60, ("ok", 202, "order-id", 1)),
        ([httpx2.ReadTimeout(""), httpx2.Response(503), created()], 60, ("ok", 202, "order-id", 3)),
        ([httpx2.Response(404, headers=LATER), created()], 60, ("ok", 202, "order-id", 2)),
        ([httpx2.Response(422)], 60, ("failed", 422, None, 1)),
        ([httpx2.Response(404, headers=LATER)], 0, ("failed", 404, None, 1)),
        ([httpx2.ConnectError("")], 0, ("unknown", None, None, 1)),
        ([httpx2.ReadError(""), httpx2.Response(422)], 60, ("unknown", 422, None, 2)),
        ([httpx2.Response(503)], 0, ("unknown", 503, None, 1)),
    ],
)
async def test_a_request_failed_only_if_no_attempt_was_lost(
    met: Sequence[Met], patience: float, expected: tuple[str, int | None, str | None, int]
) -> None:
    request = an_order()
    seen = await ask(request, meeting(*met), patience)
    assert (request.outcome, request.status, request.id, request.sent) == expected
    assert len(seen) == len(met)


DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "api" / "billing.openapi.json").read_text())
"""As good as any other."""


def test_what_a_service_offers_is_what_its_document_says_any_customer_can_ask() -> None:
    assert offers_in("parcels", DOCUMENT) == [
        Offer("parcels", "get", "/account"),
        Offer("parcels", "post", "/account/deposits", {"amount": "450.00"}),
        Offer("parcels", "post", "/account/withdrawals", {"amount": "450.00"}),
        Offer("parcels", "get", "/account/entries"),
    ]
    order = json.loads((Path(__file__).parents[2] / "docs" / "api" / "order.openapi.json").read_text())
    assert {offer.path for offer in offers_in("order", order)} == {"/orders"}, "no id, and no stream"


class Forgetful:
    """A user service that carries out every first attempt and loses its answer, and three willing others."""

    def __init__(self) -> None:
        self.logins: set[str] = set()
        self.keys: Counter[str] = Counter()

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        match request.url.path:
            case "/users":
                login = httpx2.Response(200, content=await request.aread()).json()["login"]
                if login in self.logins:
                    return httpx2.Response(409)
                self.logins.add(login)
                raise httpx2.ReadError("the connection is lost")
            case "/token":
                (login,) = parse_qs((await request.aread()).decode())["username"]
                return httpx2.Response(200, json={"access_token": login})
            case "/openapi.json":
                return httpx2.Response(200, json=DOCUMENT)
            case "/users/me":
                login = request.headers["Authorization"].removeprefix("Bearer ")
                return httpx2.Response(200, json={"id": f"id of {login}"})
        key = request.headers["Idempotency-Key"]
        self.keys[key] += 1
        return httpx2.Response(503) if self.keys[key] == 1 else created(f"id of {key}")


def test_customers_ask_until_they_know_and_keep_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_IMPATIENT", 0.0)
    service = Forgetful()
    client = partial(httpx2.AsyncClient, transport=httpx2.MockTransport(service.answer))
    monkeypatch.setattr(httpx2, "AsyncClient", client)
    urls = dict.fromkeys(("user", "order", "billing", "notification", "parcels"), "http://shop.test")
    customers = Load(urls, 1, tmp_path / "requests.ndjson", Rates(200, 200, 200, 200, 200))
    with customers.running():
        deadline = time.monotonic() + 20
        while customers.ended < 100 and time.monotonic() < deadline:
            pass
    known = {"register", "deposit", "order", "cancel"}
    assert {request.kind for request in customers.requests} == {*known, "other"}
    others = {request.marker for request in customers.requests if request.kind == "other"}
    assert others <= {offer.name for offer in offers_in("parcels", DOCUMENT)}, "of the one nobody knows"
    assert {(request.outcome, request.sent) for request in customers.requests} == {("ok", 2)}
    registered = [request for request in customers.requests if request.kind == "register"]
    assert [request.user_id for request in registered] == [f"id of {it.marker}" for it in registered]
    assert set(service.keys.values()) == {2}, "the second attempt has the key of the first"
    assert len((tmp_path / "requests.ndjson").read_text().splitlines()) == len(customers.requests) >= 100


def test_what_goes_wrong_inside_the_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: httpx2.Request) -> httpx2.Response:
        raise ZeroDivisionError

    client = partial(httpx2.AsyncClient, transport=httpx2.MockTransport(broken))
    monkeypatch.setattr(httpx2, "AsyncClient", client)
    customers = Load({"user": "http://shop.test"}, 1, tmp_path / "requests.ndjson", Rates(200, 1, 1))
    with pytest.raises(ExceptionGroup) as raised, customers.running():
        while not customers.requests:
            pass
    assert raised.group_contains(ZeroDivisionError)
