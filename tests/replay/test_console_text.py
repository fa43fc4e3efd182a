"""Whatever is hostile in a field of what a screen shows stays text, one field after the other."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest

from choreo.chassis.transaction.parked import Parked
from choreo.console.app import create_app
from choreo.console.filters import LogOptions
from choreo.console.map import rates
from choreo.console.views import View, Views
from choreo.operations.reading.checkup import Finding, finding_as_dict
from choreo.operations.reading.parked_groups import group_as_dict, grouped, parked_as_dict
from choreo.replay.sources.recording import Recording
from choreo.replay.trace.flows import FlowFilter
from choreo.replay.verify.findings import Finding as Divergence
from tests.replay.constructed import a_story
from tests.replay.test_console import HOSTILE, assert_text_is_text
from tests.unit.facts import ADA

Path_ = tuple[str | int, ...]

INSIDE = (
    ("table",),
    ("primary_keys",),
    ("inputs", "each", "id"),
    ("history", "each", "cause", "id"),
)
"""Of the time machine: what names another part of the same dictionary, and is made from the services' code
and ids alone.
"""


class Told(Views):
    """Shows what it is told to."""

    told: View

    async def now(self) -> View:
        return self.told

    async def flows(self, *of: object) -> View:
        return self.told

    async def flow(self, id: str) -> View:
        return self.told

    async def log(self, *of: object) -> View:
        return self.told

    async def past(self, *of: object) -> View:
        return self.told

    async def parked(self) -> View:
        return self.told

    def verification(self) -> View:
        return self.told


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return Recording(a_story().recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson"))


async def shown(recording: Recording) -> dict[str, Mapping[str, Any]]:
    """What each screen has to show, by its URL."""
    views = Views(recording)
    flows = (await views.flows(FlowFilter(), 50, None, ())).data
    refused = next(flow for flow in flows["flows"] if flow["asked"]["refusal"])
    paid = next(flow for flow in flows["flows"] if len(flow["events"]) > 2)
    incomplete = (await views.parked()).data["flows"]
    sick = Finding("billing", "reads order-events", "lag 3", "see its log")
    return {
        "/": {"findings": [finding_as_dict(sick)], "recording": None, **a_look(), **flows, "flows": [paid]},
        "/flows": {**flows, "flows": [refused, *incomplete[:1], paid]},
        f"/flows/{paid['flow']}": (await views.flow(str(paid["flow"]))).data,
        f"/flows/{refused['flow']}": (await views.flow(str(refused["flow"]))).data,
        "/log/billing-events": (await views.log("billing-events", LogOptions().filter, 2, ())).data,
        f"/at/billing/payments?key={ADA}": (
            await views.past("billing", "payments", str(ADA), None, "live", None)
        ).data,
        "/parked": a_parked_group(),
        "/verify": a_verdict(),
    }


def a_look() -> dict[str, Any]:
    at, hears = "2026-11-23T12:00:00.000000Z", {"order-events": {"read": 1, "lag": 2}}
    job = {"ready": False, "waiting": 3, "since": at, "cause": "it waits"}
    backlog = {name: {"count": 1, "since": at} for name in ("unpublished", "waiting", "parked")}
    service = {"publishes": "order-events", "inputs": 4, "hears": hears, **backlog, "jobs": {"relay": job}}
    traffic = {
        "at": at,
        "topics": {"order-events": {"records": 3}},
        "services": {"billing": service},
        "away": ["Kafka"],
    }
    return {"examined_at": at, "traffic": traffic | {"rates": rates(traffic, None)}}


def a_parked_group() -> dict[str, Any]:
    now, value = datetime.now(UTC), b'{"price": 1}'
    row = Parked(
        UUID(int=1),
        str(ADA),
        "OrderCreated",
        "order-events",
        0,
        7,
        b"k",
        value,
        b"[]",
        "handler",
        "a bug",
        "e.py:1",
        now,
    )
    (group,) = grouped({"billing": [row]})
    event = parked_as_dict(group.queues[0], row) | {"tells": "price 1"}
    return {"groups": [group_as_dict(group)], "events": [event], "flows": []}


def a_verdict() -> dict[str, Any]:
    one = Divergence(
        "step", "billing", "decides otherwise", str(ADA), "e", "OrderCreated", "order-events[0]@1", "t",
        "evolve.py:1", "payments", "amount", {"amount": "1"}, {"amount": "2"}, ("evolve.py:1", "decide.py:2"),
    )  # fmt: skip
    report = {
        "verdict": "changed",
        "findings": [one.as_dict()],
        "not_deterministic": [one.as_dict()],
        "not_verified": {"loyalty": "it is younger"},
        "counts": {"items": 1},
        "seconds": 1.0,
    }
    told = {"runs": False, "closed_loop": False, "begun_at": "t", "ended_at": "t", "progress": "half"}
    return {**told, "error": "it died", "report": report}


def leaves(data: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yields where there is text in it; of what is alike once."""
    match data:
        case Mapping():
            for name, value in data.items():
                yield from leaves(value, (*path, name))
        case list() | tuple():
            for number, value in enumerate(data):
                yield from leaves(value, (*path, number))
        case str():
            yield path


def is_inside(kind: Path_) -> bool:
    return any(kind[: len(one)] == one for one in INSIDE)


def kind(path: Path_) -> Path_:
    return tuple("each" if isinstance(part, int) else part for part in path)


def with_hostile(data: Any, path: Path_) -> Any:
    if not path:
        return HOSTILE
    copy: Any = list(data) if isinstance(path[0], int) else dict(data)
    copy[path[0]] = with_hostile(data[path[0]], path[1:])
    return copy


@asynccontextmanager
async def looking(views: Views) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(views, ["localhost"]), client=("127.0.0.1", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_every_field_of_every_screen_is_text(recording: Recording) -> None:
    crossed, seen = 0, 0
    for url, data in (await shown(recording)).items():
        plain = json.loads(json.dumps(data, default=str))
        views = Told(recording)
        kinds = {kind(path): path for path in leaves(plain)}
        if url.startswith("/at/"):
            kinds = {kind: path for kind, path in kinds.items() if not is_inside(kind)}
        async with looking(views) as client:
            for path in kinds.values():
                views.told = View(with_hostile(plain, path), "choreo")
                page = await client.get(url)
                assert page.status_code == 200, (url, path)
                assert_text_is_text(page.text)
                crossed, seen = crossed + 1, seen + ("alert(1)" in page.text)
    assert crossed > 250 and seen > 100, "and it is there"
