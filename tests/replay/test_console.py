"""The console on a recording: it shows what the verbs print, lets nobody else in, and shows text as text."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import psutil
import pytest
from typer.testing import CliRunner

from choreo.benchmarks.resources import memory
from choreo.cli.main import app
from choreo.console.app import create_app
from choreo.console.guard import POSTS
from choreo.console.lanes import lanes_of
from choreo.console.map import map_of, rates
from choreo.console.views import Views, masked
from choreo.message.codec import Record, TopicRecord
from choreo.operations.reading.flows import traced
from choreo.replay.sources.recording import Recording, Writer
from choreo.replay.sources.records import Item, JournalEntry, Span
from choreo.replay.trace.as_dict import trace_as_dict
from tests.replay.constructed import Constructed, a_story
from tests.unit.facts import ADA

ROOT = Path(__file__).parents[2]
MOST_MIB_AT_REST = 60
PATIENCE = 60.0
"""Seconds, longer than whatever is waited for."""
HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\u202e\r\nevent: end\rid: 1\n\n</p>"
)
PAST = ("/at", "/at/billing/accounts", f"/at/billing/accounts?key={ADA}", f"/at/billing?key={ADA}&diff=live")
PAGES = (
    "/",
    "/flows",
    f"/flows/{ADA}",
    "/log/order-events",
    "/log/billing-events/0/1",
    "/parked",
    "/verify",
    "/whole/billing/accounts",
    *PAST,
)
OWN_SCRIPTS = ("/console.js", "/htmx.min.js", "/hx-sse.min.js")
VERBS = {
    "/flows?limit=50": "flows {file} --limit 50",
    "/flows?outcome=rejected&amount=500.00": "flows {file} --amount 500.00 --outcome rejected",
    f"/flows?of={str(ADA)[:8]}&state=refused&limit=50": f"flows {{file}} --of {str(ADA)[:8]} --state refused",
    f"/flows/{ADA}": f"trace {ADA} {{file}}",
    "/log/billing-events/0/1?limit=2": "log billing-events[0]@1 {file} --limit 2",
    "/log/billing-events?type=PaymentRejected": "log billing-events {file} --type PaymentRejected",
}


@pytest.fixture(scope="module")
def shop() -> Constructed:
    return a_story()


@pytest.fixture(scope="module")
def file(shop: Constructed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson")


@pytest.fixture
async def browser(file: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with looking_at(file) as client:
        yield client


def looking_at(file: Path, host: str = "localhost") -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(Recording(file), ["localhost"]), client=("127.0.0.1", 1))
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}:8005")


def json_of(url: str) -> str:
    path, mark, query = url.partition("?")
    return f"{'/now' if path == '/' else path}.json{mark}{query}"


# -- no second truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", VERBS)
async def test_a_screen_shows_what_its_verb_prints(browser: httpx2.AsyncClient, file: Path, url: str) -> None:
    arguments = [word.replace("{file}", str(file)) for word in VERBS[url].split()]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"])
    printed = json.loads(result.stdout)
    told = (await browser.get(f"{json_of(url)}{'&' if '?' in url else '?'}addresses=1")).json()
    assert told == printed
    page = await browser.get(url)
    assert page.status_code == 200 and f"choreo {arguments[0]}" in Text.of(page.text).said


@pytest.mark.parametrize("url", PAGES)
async def test_every_page_is_useful_without_its_script_and_has_its_json(
    browser: httpx2.AsyncClient, url: str
) -> None:
    page = await browser.get(url)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    read = Text.of(page.text)
    assert read.scripts == ["/console.js"] and "style" not in read.attributes
    assert json_of(url) in read.links
    assert len({*read.keys}) == len(read.keys), "a key does one thing"
    assert {"/", "?", "g f", "g t"} <= {*read.keys}
    assert (await browser.get(json_of(url))).headers["content-type"] == "application/json"
    assert (await browser.head(url)).status_code == 200


async def test_links_lead_from_the_list_to_the_flow_to_the_record_and_back(
    browser: httpx2.AsyncClient,
) -> None:
    seen = {"/"}
    following = ["/"]
    while following:
        page = await browser.get(following.pop(), follow_redirects=True)
        assert page.status_code == 200, page.url
        new = {
            link for link in Text.of(page.text).links if link.startswith("/") and "json" not in link
        } - seen
        kinds = {link: link.split("?")[0].split("/")[1:3] for link in new}
        fresh = {tuple(kind): link for link, kind in kinds.items()}  # one of a kind is enough
        following += [link for kind, link in fresh.items() if len(seen) < 60]
        seen |= new
    assert any(link.startswith("/log/") for link in seen) and any(link.startswith("/flows/") for link in seen)


async def test_the_search_box_finds_whatever_is_put_in(
    browser: httpx2.AsyncClient, shop: Constructed
) -> None:
    (order, *_) = [event.subject for event in (one.data for one in shop.topics["order"])]
    for text, place in (
        ("order-events[0]@1", "/log/order-events/0/1"),
        (" billing-events[0] ", "/log/billing-events/0"),
        (str(order), f"/flows/{order}"),
        ("Ada", "/flows/Ada"),
        ("//evil.example", "/flows/%2F%2Fevil.example"),
        ("", "/flows"),
    ):
        answer = await browser.get("/search", params={"q": text})
        assert (answer.status_code, answer.headers["location"]) == (303, place)


async def test_what_is_not_there_and_what_is_no_filter_is_a_sentence(browser: httpx2.AsyncClient) -> None:
    for url, status in (
        ("/flows/nobody", 404),
        ("/nowhere", 404),
        ("/flows?amount=ten", 400),
        ("/flows?since=soon", 400),
        ("/flows?state=strange", 400),
        ("/flows?limit=100000", 400),
        ("/log/no-such-topic", 400),
        ("/log/order-events/7", 400),
        ("/log/order-events/x", 400),
        ("/at/nothing?key=x", 400),
        ("/at/billing?key=nobody", 400),
        (f"/at/billing/nothing?key={ADA}", 400),
        (f"/at/billing/accounts?key={ADA}&moment=then", 400),
    ):
        for form in (url, json_of(url)):
            answer = await browser.get(form)
            assert answer.status_code == status, form
            assert "Traceback" not in answer.text


# -- who may look --------------------------------------------------------------------------------------


async def test_a_foreign_host_and_whatever_is_more_than_a_look_is_refused(file: Path) -> None:
    async with looking_at(file, "evil.example") as stranger:
        assert (await stranger.get("/")).status_code == 421
    async with looking_at(file) as client:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await client.request(method, "/flows")).status_code == 405, method
        assert (await client.get("/", headers={"X": "x" * 40_000})).status_code == 431
        assert (await client.get(f"/flows/{'x' * 10_000}")).status_code == 414
        for url in ("/", "/flows.json", "/nowhere", "/console.css", "/console.js", "/flows?amount=ten"):
            headers = (await client.get(url)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "script-src 'self';" in policy and "*" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers


async def test_only_a_page_of_its_own_begins_a_verification_and_it_says_what_the_verb_does(
    file: Path,
) -> None:
    async with looking_at(file) as client:
        strangers: list[dict[str, str]] = [{}, {"Origin": "null"}, {"Origin": "http://evil.example"}]
        for origin in strangers:
            for url in POSTS:
                assert (await client.post(url, headers=origin)).status_code == 403
        before = (await client.get("/verify.json")).json()
        assert (before["runs"], before["report"]) == (False, None), "nobody has asked for it"
        ours = {"Origin": "http://localhost:8005"}
        large = {"closed_loop": "1" * 10_000}
        assert (await client.post("/verify/start", headers=ours, data=large)).status_code == 413
        assert (await client.post("/verify/start", headers=ours)).status_code == 303
        begun = (await client.get("/verify.json")).json()
        assert begun["runs"]
        assert (await client.post("/verify/start", headers=ours)).status_code == 303, "one at a time"
        assert (await client.get("/verify.json")).json()["begun_at"] == begun["begun_at"]
        async with client.stream("GET", "/live/verify") as following:
            assert "event: end" in (await following.aread()).decode()
        told = (await client.get("/verify.json")).json()
        result = await asyncio.to_thread(CliRunner().invoke, app, ["verify", str(file), "--json"])
        assert told["report"] | {"seconds": 0} == json.loads(result.stdout) | {"seconds": 0}
        assert (await client.post("/verify/start", headers=ours)).status_code == 303
        assert (await client.post("/verify/cancel", headers=ours)).status_code == 303
        cancelled = (await client.get("/verify.json")).json()
        assert (cancelled["runs"], cancelled["error"]) == (False, "It was cancelled.")


async def test_a_whole_table_is_folded_when_a_person_says_so_and_is_what_the_verb_prints(
    file: Path,
) -> None:
    async with looking_at(file) as client:
        asked = {"service": "billing", "table": "accounts", "moment": "order-events[0]@1"}
        ours, page = {"Origin": "http://localhost:8005"}, "/whole/billing/accounts"
        assert (await client.get(f"{page}.json")).json()["runs"] is False, "nobody has asked for it"
        answer = await client.post("/whole/start", headers=ours, data=asked)
        assert (answer.status_code, answer.headers["location"]) == (303, page)
        assert (await client.get("/whole/billing/payments.json")).json()["busy"], "one at a time"
        async with client.stream("GET", f"/live{page}") as following:
            assert "event: end" in (await following.aread()).decode()
        told = (await client.get(f"{page}.json")).json()
        at = ["state", "billing", "--at", asked["moment"], "--table", "accounts", "--limit", "200"]
        result = await asyncio.to_thread(CliRunner().invoke, app, [*at, "--json", str(file)])
        assert told["state"] == json.loads(result.stdout)
        assert len(told["state"]["tables"]["accounts"]) == 1 and told["state"]["left_out"] == {"accounts": 0}
        assert "400.00" in Text.of((await client.get(page)).text).said
        await client.post("/whole/start", headers=ours, data=asked)
        await client.post("/whole/cancel", headers=ours)
        assert (await client.get(f"{page}.json")).json()["error"] == "It was cancelled."
        for wrong in ({"service": "nothing"}, {"table": "nothing"}, {"table": "--help"}):
            assert (await client.post("/whole/start", headers=ours, data=asked | wrong)).status_code == 400


async def test_a_verdict_outlives_the_process_that_shows_it(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "data" / "verified.json"
    before = Views(Recording(file), kept)
    await before.verifying.start(closed_loop=False)
    assert before.verifying._following is not None
    await before.verifying._following
    after = Views(Recording(file), kept)
    assert after.verification().data["report"] == before.verification().data["report"]
    assert after.verifying.as_dict()["report"]["verdict"] == "match"
    kept.write_text("{")
    assert Views(Recording(file), kept).verifying.as_dict()["report"] is None, "what is no verdict is none"


def test_the_verb_says_where_it_listens_and_ends_cleanly(file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    surroundings = {"CHOREO_PORT_BASE": str(port - 5), "CHOREO_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "choreo.cli.main", "console", str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | surroundings, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{port}/"
            becomes_another_program(process)
            assert memory({"console": process.pid}).total < MOST_MIB_AT_REST
            assert httpx2.get(address, trust_env=False, timeout=60).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()


def becomes_another_program(process: "subprocess.Popen[str]") -> None:
    """Returns once `choreo console` has said where, and is the small process that listens there."""
    until = time.monotonic() + PATIENCE
    while "choreo.embedded.console" not in psutil.Process(process.pid).cmdline():
        assert time.monotonic() < until
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def test_what_is_not_ours_is_as_it_was_published() -> None:
    """As its package has it: choreo/console/pages/vendored.json says which."""
    pages = ROOT / "choreo" / "console" / "pages"
    sums = json.loads((pages / "vendored.json").read_text())["sha256"]
    assert {path.name for path in pages.glob("h*x*") if path.suffix != ".html"} == sums.keys()
    assert {name: sha256((pages / name).read_bytes()).hexdigest() for name in sums} == sums


# -- text is text --------------------------------------------------------------------------------------


class Text(HTMLParser):
    """What a browser would make of a page: its elements, attributes, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str | None] = []
        """Where each comes from; of one that stands in the page nothing is told."""
        self.keys: list[str] = []
        self.texts: list[tuple[str, str]] = []
        """Each link, with what it says first."""
        self.said = ""
        self._open = ""

    @classmethod
    def of(cls, page: str) -> "Text":
        parser = cls()
        parser.feed(page)
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.scripts += [dict(attrs).get("src")] if tag == "script" else []
        self.keys += [value for name, value in attrs if name == "data-key" and value]
        self.links += [value for name, value in attrs if name == "href" and value]
        if tag == "a":
            self._open = self.links[-1]

    def handle_data(self, data: str) -> None:
        self.said += data
        if self._open:
            self.texts.append((self._open, data))
            self._open = ""


def hostile(item: Item) -> Item:
    """The same, with hostile text wherever a stranger may have put some."""
    if isinstance(item, JournalEntry):
        refusal = item.refusal and dict.fromkeys(item.refusal, HOSTILE)
        return replace(item, refusal=refusal)
    if isinstance(item, TopicRecord) and item.topic == "order-events":
        told = json.loads(item.record.value or b"{}")
        if "description" in told:
            told["description"] = HOSTILE
        return replace(item, record=replace(item.record, value=json.dumps(told).encode()))
    return item


@pytest.fixture(scope="module")
def hostile_file(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recording, bytes_ = Recording(file), HOSTILE.encode()
    path = tmp_path_factory.mktemp("hostile") / f"<b>{'x' * 3}.ndjson"
    strange = [
        TopicRecord("order-events", 0, 90, 0, True, Record(bytes_, bytes_, [(HOSTILE, bytes_)])),
        TopicRecord("order-events", 0, 91, 0, True, Record(b"\xff\x00", None, [("ce_type", bytes_)])),
    ]
    spans = recording.cut.spans | {("order-events", 0): Span(0, 92, 92)}
    with Writer(path, replace(recording.cut, spans=spans), None) as writer:
        writer.write([hostile(item) for batch in recording.read() for item in batch])
        writer.write(strange)
        writer.finish()
    return path


def hostile_urls() -> Iterator[str]:
    yield from PAGES
    yield "/log/order-events/0/0?limit=200"
    text = quote(HOSTILE, safe="")
    yield f"/flows/{text}"
    yield f"/log/{text}"
    for name in ("of", "state", "outcome", "amount", "since", "until", "slower", "limit"):
        yield f"/flows?{name}={text}"
    for name in ("key", "type", "header"):
        yield f"/log/order-events?{name}={text}"
    yield f"/log/order-events?header=x%3D{text}"
    yield f"/at/{text}?key={text}"
    yield f"/at/order/{text}?key={ADA}"
    yield f"/at/order?key={ADA}"
    for name in ("key", "moment", "diff", "row"):
        yield f"/at/order/orders?key={ADA}&{name}={text}"


@pytest.mark.parametrize("url", [*hostile_urls()])
async def test_hostile_text_stays_text_wherever_it_stands(hostile_file: Path, url: str) -> None:
    async with looking_at(hostile_file) as client:
        page = await client.get(url)
    assert_text_is_text(page.text)


def assert_text_is_text(page: str) -> None:
    read = Text.of(page)
    assert not {"img", "iframe", "object"} & read.elements
    assert [one for one in read.scripts if one not in OWN_SCRIPTS] == []
    assert not {name for name in read.attributes if name.startswith("on")}
    assert page.count("<script") == len(read.scripts) and "<img" not in page
    assert all(link.startswith(("/", "#")) for link in read.links)


async def test_hostile_text_stays_text_in_what_comes_by_itself(hostile_file: Path) -> None:
    """And begins no event of its own in the stream."""
    text = quote(HOSTILE.splitlines()[0], safe="")
    async with looking_at(hostile_file) as client:
        for url in ("/live/", f"/live/flows/{ADA}", f"/live/flows/{text}", "/live/verify"):
            told = (await client.get(url)).text
            first, *others = [event for event in told.split("\n\n") if event]
            assert [line.partition(":")[0] for line in first.splitlines()] == ["data"] * first.count("data: ")
            assert others == ["event: end\ndata: "], url
            assert_text_is_text("\n".join(line.removeprefix("data: ") for line in first.split("\n")))


async def test_the_hostile_text_is_there(hostile_file: Path) -> None:
    async with looking_at(hostile_file) as client:
        assert "<script>alert(1)" in Text.of((await client.get("/log/order-events/0/90")).text).said
        assert "alert(2)>{{7*7}}" in Text.of((await client.get("/flows")).text).said, (
            "and nothing of it is run"
        )


async def test_addresses_are_masked_unless_they_are_asked_for(file: Path, tmp_path: Path) -> None:
    recording = Recording(file)
    record = Record(b"k", b'{"email": "ada.lovelace@example.org"}', [("x", b"ada.lovelace@example.org")])
    spans = recording.cut.spans | {("order-events", 0): Span(0, 1, 1)}
    path = tmp_path / "addresses.ndjson"
    with Writer(path, replace(recording.cut, spans=spans), None) as writer:
        writer.write([TopicRecord("order-events", 0, 0, 0, True, record)])
        writer.finish()
    async with looking_at(path) as client:
        for url in ("/log/order-events", "/log/order-events.json"):
            hidden = (await client.get(url)).text
            assert "lovelace" not in hidden and "a…@example.org" in hidden.replace("\\u2026", "…")
            assert "ada.lovelace@example.org" in (await client.get(f"{url}?addresses=1")).text


def test_masking_takes_no_longer_than_the_text_is_long() -> None:
    """Of what a stranger wrote; were it in proportion to the square of that, this would take minutes."""
    text = "x" * 1_000_000
    assert masked(f"{text} a@{text}") == f"{text} a…@{text}"


def test_masking_leaves_everything_else_as_it_is() -> None:
    told: dict[str, Any] = {
        "id": "order-events[3]@120",
        "n": 1,
        "none": None,
        "list": ["a@b", {"to": "Ada <ada@x.org>"}],
    }
    assert masked(told) == {
        "id": "order-events[3]@120",
        "n": 1,
        "none": None,
        "list": ["a…@b", {"to": "Ada <a…@x.org>"}],
    }


# -- the time machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "&moment=order-events[0]@1", "&moment=order-events[0]@0&diff=live"])
async def test_the_time_machine_shows_what_state_prints(browser: httpx2.AsyncClient, options: str) -> None:
    query = f"key={ADA}{options}"
    told = (await browser.get(f"/at/billing/payments.json?{query}")).json()
    page = Text.of((await browser.get(f"/at/billing/payments?{query}")).text).said
    _, *arguments = shlex.split(page.partition("The same in a terminal:")[2].splitlines()[0])
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"])
    printed = json.loads(result.stdout)
    if "diff" in options:
        assert printed["differences"] == [one for one in told["differences"] if one["table"] == "payments"]
    else:
        assert printed["tables"]["payments"] == told["tables"]["payments"] != []


async def test_from_a_rejected_order_one_comes_to_the_balance_before_it_and_to_the_line(
    browser: httpx2.AsyncClient,
) -> None:
    async def follow(page: httpx2.Response, start: str, text: str = "") -> httpx2.Response:
        links = Text.of(page.text).texts
        link = next(link for link, told in links if link.startswith(start) and text in told)
        return await browser.get(link)

    flows = await browser.get("/flows?outcome=rejected")
    then = await follow(await follow(flows, "/flows/"), "/at/billing", "billing then")
    payments = await follow(then, "/at/billing/payments")
    assert "rejected" in Text.of(payments.text).said
    assert re.search(r"PaymentRejected.*billing_service/decide\.py:\d+", Text.of(payments.text).said, re.S)
    accounts = await follow(then, "/at/billing/accounts")
    before = await follow(accounts, "/at/billing/accounts", "← input")
    balances = {"balance 400.00 → 300.00", "balance 0.00 → 400.00"}
    assert all(balance in Text.of(before.text).said for balance in balances)
    told = (await browser.get(f"/at/billing/accounts.json?{before.url.query.decode()}")).json()
    assert told["tables"]["accounts"][0]["row"]["balance"] == 30000
    first = await follow(accounts, "/at/billing/accounts", "[ change")
    told = (await browser.get(f"/at/billing/accounts.json?{first.url.query.decode()}")).json()
    assert told["inputs"][told["position"] - 1]["type"] == "OrderCreated"


# -- the drawing ---------------------------------------------------------------------------------------


async def test_a_flow_is_drawn_with_a_lane_for_each_service_and_its_hops_in_order(file: Path) -> None:
    trees, left_out = await traced(Recording(file), str(ADA))
    flows = trace_as_dict("", trees, left_out)["flows"]
    flow = next(one for one in flows if any(event["type"] == "OrderCreated" for event in one["events"]))
    drawn = lanes_of(flow)
    assert drawn.services[0] == "order" and {"billing", "notification"} <= set(drawn.services)
    assert all(0 <= bar.x <= 1000 and bar.x + bar.width <= 1002 for bar in drawn.bars)
    assert {bar.anchor for bar in drawn.bars} >= {str(event["id"]) for event in flow["events"]}


def test_what_is_missing_is_drawn_and_named() -> None:
    gap = {"service": "billing", "expects": ["PaymentConfirmed"], "state": "waiting", "says": "waits"}
    event = {
        "id": 1,
        "type": "OrderCreated",
        "source": "order",
        "after_ms": 5.0,
        "decided": None,
        "heard": [],
    }
    flow = {"missing": [], "events": [event | {"missing": [gap], "followed_by": []}]}
    (bar,) = [bar for bar in lanes_of(flow).bars if bar.kind == "missing"]
    assert lanes_of(flow).services[bar.lane] == "billing" and "PaymentConfirmed is waiting" in bar.says


def a_look(seconds: int, records: int, read: int) -> dict[str, Any]:
    service = {"publishes": "order-events", "hears": {"order-events": {"read": read, "lag": records - read}}}
    return {
        "at": f"2026-11-23T12:00:{seconds:02}.000000Z",
        "topics": {"order-events": {"records": records}, "user-events": {"records": 1}},
        "services": {"order": service | {"inputs": records}},
    }


def test_two_looks_make_rates_and_the_more_goes_through_the_wider_it_is_drawn() -> None:
    first, second = a_look(0, 100, 90), a_look(10, 300, 190)
    told = rates(second, first)
    assert told["topics"] == {"order-events": 20.0, "user-events": 0.0}
    assert told["services"] == {"order": {"inputs": 20.0, "hears": {"order-events": 10.0}}}
    assert rates(first, None)["topics"]["order-events"] is None, "one look is no rate"
    published, heard = map_of(second | {"rates": told}).lines
    assert published.width > heard.width and heard.behind and "lag 110" in heard.says
    assert "20/s" in published.says and "10/s" in heard.says


async def test_a_recording_is_drawn_by_all_that_it_holds(file: Path, shop: Constructed) -> None:
    drawn = map_of((await Views(Recording(file)).now()).data["traffic"])
    assert {box.name for box in drawn.boxes} >= {"order", "billing", "order-events", "billing-events"}
    count = len(shop.topics["order"])
    assert f"order publishes order-events: {count} records" in {line.says for line in drawn.lines}
