"""What every request is held to before anything is done for it; and HEAD."""

import asyncio
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from choreo.chassis.http import headers, waits
from choreo.chassis.http.problems import Problem
from tests.unit.chassis_http.test_http_checks import GOOD, JSON, assert_problem

pytestmark = pytest.mark.asyncio


async def ask(toy: Any, *pairs: tuple[bytes, bytes], path: str = "/things", version: str = "1.1") -> int:
    """The status, of a request with exactly these headers."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "http_version": version,
        "headers": list(pairs),
    }
    status: list[int] = []

    async def send(message: Any) -> None:
        status.append(message.get("status", 0))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await toy.app(scope, receive, send)
    return status[0]


HOST = (b"host", b"toy")


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([(b"x-%d" % n, b"") for n in range(headers.MOST - 1)], 200),
        ([(b"x-%d" % n, b"") for n in range(headers.MOST)], 431),
        ([(b"cookie", b"")] * headers.MOST, 431),
        ([(b"x", b"y" * (headers.MOST_BYTES - 1 - len(b"host" + b"toy")))], 200),
        ([(b"x", b"y" * headers.MOST_BYTES)], 431),
    ],
)
@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
async def test_headers_are_bounded(
    toy: Any, pairs: list[tuple[bytes, bytes]], status: int, path: str
) -> None:
    assert await ask(toy, HOST, *pairs, path=path) == status


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        ([b"toy"], "1.1", 401),
        ([b"TOY:8001"], "1.1", 401),
        ([b"evil.example"], "1.1", 421),
        ([b"toy.evil.example"], "1.1", 421),
        ([b"toy@evil.example"], "1.1", 421),
        ([b""], "1.1", 421),
        ([b"toy", b"toy"], "1.1", 400),
        ([b"toy", b"evil.example"], "1.1", 400),
        ([], "1.1", 400),
        ([], "1.0", 401),
    ],
)
async def test_a_service_answers_to_its_own_names_alone(
    toy: Any, hosts: list[bytes], version: str, status: int
) -> None:
    pairs = [(b"host", host) for host in hosts]
    assert await ask(toy, *pairs, version=version) == status
    for path in ("/health/live", "/metrics"):
        assert await ask(toy, *pairs, version=version, path=path) == (400 if status == 400 else 200)


async def test_the_bounds_come_before_the_host_and_the_host_before_the_token(toy: Any) -> None:
    many = [(b"cookie", b"")] * headers.MOST
    assert await ask(toy, (b"host", b"evil.example"), *many) == 431
    assert await ask(toy, (b"host", b"a"), (b"host", b"b"), *many) == 431


async def test_head_is_answered_like_get_without_the_body(toy: Any, client: httpx2.AsyncClient) -> None:
    for path in ("/things", f"/things/{uuid4()}", "/health/live", "/stream", "/half", "/openapi.json"):
        got = await client.get(path, headers=toy.headers) if path != "/half" else None
        head = await client.head(path, headers=toy.headers)
        assert head.status_code == 200
        if got and path != "/openapi.json":  # whose body the server drops
            assert (head.content, head.headers["content-length"]) == (b"", got.headers["content-length"])
    assert (await client.head("/login")).status_code == 405
    assert (await client.head("/things")).status_code == 401
    assert (await client.post("/things/1", headers=toy.headers)).headers["allow"] == "GET, HEAD"


async def test_whoever_asks_again_and_again_is_refused_slowly_and_nobody_else() -> None:
    room = ExitStack()
    held: list[None] = []

    async def slowly() -> None:
        held.append(None)
        if len(held) > 1:
            room.close()

    user, other = uuid4(), uuid4()
    door = waits.Waits(slowly)
    for _ in range(waits.MOST):
        await door.admit(user)
        room.enter_context(door.one(user))
    for held_so_far in [0] * waits.REFUSED_AT_ONCE + [1]:
        with pytest.raises(Problem) as refused:
            await door.admit(user)
        assert (refused.value.status, len(held)) == (429, held_so_far)
    await door.admit(other)
    assert len(held) == 1
    await door.admit(user)  # there is room by the time
    assert len(held) == 2


async def test_of_one_user_so_many_wait_and_others_are_not_held_up(
    toy: Any, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/things?flow={uuid4()}"
    everybody_in, go_on = asyncio.Event(), asyncio.Event()

    async def never(user_id: Any, flow: Any, seconds: int) -> bool:
        entered.append(user_id)
        if len(entered) == waits.MOST:
            everybody_in.set()
        await go_on.wait()
        return False

    entered: list[Any] = []
    monkeypatch.setattr(toy, "_flow_applied", never)
    asking = [
        asyncio.ensure_future(client.get(f"{path}&wait=9", headers=toy.headers)) for _ in range(waits.MOST)
    ]
    await everybody_in.wait()
    refused = await client.get(f"{path}&wait=9", headers=toy.headers)
    assert_problem(refused, 429, "too_many_waits")
    assert refused.headers["retry-after"] == "1"
    assert (await client.get("/things", headers=toy.headers)).status_code == 200
    assert (await client.get(f"/things/{uuid4()}?wait=9", headers=toy.headers)).status_code == 429
    placed = await client.post("/things", content=GOOD, headers=toy.headers | JSON | {"Prefer": "wait=9"})
    assert (placed.status_code, toy.calls[-1]["wait"]) == (201, 0)
    go_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
    assert (await client.get(f"/things/{uuid4()}?wait=9", headers=toy.headers)).status_code == 200
