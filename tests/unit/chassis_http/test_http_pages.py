from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.chassis.http.pages import Query, cursor, sequence_of
from choreo.chassis.http.problems import Problem


@given(st.integers(0, 2**63 - 1))
def test_cursors_round_trip(sequence: int) -> None:
    assert sequence_of(cursor(sequence)) == sequence


@given(
    st.text()
    | st.binary().map(lambda raw: cursor(0) + raw.decode("latin-1"))
    | st.text("MTIz=-_\n", max_size=9)
)
def test_any_text_is_a_cursor_of_ours_or_a_422(text: str) -> None:
    try:
        assert cursor(sequence_of(text)) == text
    except Problem as refusal:
        assert refusal.status == 422
        assert [(fault.kind, fault.place) for fault in refusal.errors] == [("parameter", "cursor")]


@given(st.binary())
def test_no_query_string_is_our_fault(raw: bytes) -> None:
    for read in (Query.page, Query.wait):
        try:
            read(Query(raw))
        except Problem as refusal:
            assert refusal.status == 422


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=+5", "limit"),
        ("limit=05", "limit"),
        ("limit=5&limit=5", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=MQ&cursor=MQ", "cursor"),
        ("cursor=MQ%3D%3D", "cursor"),
        ("&".join(["x"] * 102), ""),
    ],
)
@pytest.mark.asyncio
async def test_out_of_range(toy: Any, client: httpx2.AsyncClient, query: str, parameter: str) -> None:
    answer = await client.get(f"/things?{query}", headers=toy.headers)
    assert answer.status_code == 422
    assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


@pytest.mark.parametrize(
    ("query", "status"), [("wait=30", 200), ("wait=0", 200), ("wait=31", 422), ("wait=x", 422)]
)
@pytest.mark.asyncio
async def test_wait(toy: Any, client: httpx2.AsyncClient, query: str, status: int) -> None:
    path = "/things/6f2f6f5c-1111-4222-8333-444455556666"
    assert (await client.get(f"{path}?{query}", headers=toy.headers)).status_code == status
    assert (await client.get(f"{path}?x=1&x=2&y=%ff", headers=toy.headers)).status_code == 200
    assert toy.calls[-1]["wait"] == 0


@pytest.mark.parametrize("limit", [1, 7, 50, 100, 200])
@pytest.mark.asyncio
async def test_pages_hold_everything_once_in_order(toy: Any, client: httpx2.AsyncClient, limit: int) -> None:
    seen: list[str] = []
    query: dict[str, str] = {"limit": str(limit)}
    while True:
        page = (await client.get("/things", params=query, headers=toy.headers)).json()
        seen += [item["price"] for item in page["items"]]
        if page["next"] is None:
            break
        assert len(page["items"]) == limit
        query["cursor"] = page["next"]
    assert seen == [f"{n // 100}.{n % 100:02d}" for n in range(300, 0, -1)]
