"""What the console never does, seen from beneath: by what it asks of Kafka, Postgres and Python itself."""

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import psycopg
import pytest
import pytest_asyncio
from aiokafka.conn import AIOKafkaConnection

from choreo.embedded.postgres import Postgres
from choreo.replay.sources.recording import Recording
from tests.brokers import Broker
from tests.replay.constructed import a_story
from tests.replay.test_console_in_chromium import served
from tests.services import SERVICES
from tests.shop import Shop, a_shop
from tests.unit.facts import ADA

READS = {
    1: "Fetch", 2: "ListOffsets", 3: "Metadata", 10: "FindCoordinator", 15: "DescribeGroups",
    16: "ListGroups", 17: "SaslHandshake", 18: "ApiVersions", 23: "OffsetForLeaderEpoch",
    32: "DescribeConfigs", 36: "SaslAuthenticate",
}  # fmt: skip
"""By Kafka's number of a request. Any other joins, commits or writes."""
TEXT = "__import__('os').mkdir('evaluated')"
"""Put in wherever a page takes text."""
WRITES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.system",
    "os.exec",
    "subprocess.Popen",
}
_WRITING = re.compile(
    r"\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|CREATE|ALTER|DROP|GRANT|COPY|CALL|DO|LOCK|NOTIFY|nextval|setval|"
    r"pg_\w*advisory\w*|lo_\w+)\b",
    re.IGNORECASE,
)


class Beneath:
    """What is asked in threads that began later than this: those of the console, and none of the services."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())
        self.kafka: set[int] = set()
        self.statements: set[str] = set()
        self.compiled: list[str] = []
        self.written: list[str] = []
        self.watches = True

    @property
    def is_asking(self) -> bool:
        return self.watches and threading.current_thread() not in self._before

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_asking:
            return
        if event == "compile" and arguments[0] is not None:
            self.compiled.append(str(arguments[0]))
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self.written.append(f"open {arguments[0]}")
        elif event in WRITES:
            self.written.append(f"{event} {arguments}")

    @property
    def writing(self) -> list[str]:
        """Statements that are more than a look; what stands in quotes and remarks is none."""
        plain = (re.sub(r"/\*.*?\*/|'[^']*'", "", text, flags=re.DOTALL) for text in self.statements)
        return [text for text in plain if _WRITING.search(text)]


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beneath]:
    beneath, of_kafka, of_postgres = Beneath(), AIOKafkaConnection.send, psycopg.AsyncCursor.execute

    def send(self: Any, request: Any, *arguments: Any, **named: Any) -> Any:
        if beneath.is_asking:
            beneath.kafka.add(request.API_KEY)
        return of_kafka(self, request, *arguments, **named)

    async def execute(self: Any, query: Any, *arguments: Any, **named: Any) -> Any:
        if beneath.is_asking:
            beneath.statements.add(query.decode() if isinstance(query, bytes) else str(query))
        return await of_postgres(self, query, *arguments, **named)

    monkeypatch.setattr(AIOKafkaConnection, "send", send)
    monkeypatch.setattr(psycopg.AsyncCursor, "execute", execute)
    sys.addaudithook(beneath.audit)
    try:
        yield beneath
    finally:
        beneath.watches = False  # a hook stays for as long as the process does


def everything(key: str, topic: str) -> Iterator[str]:
    """Each page, and each again with text in whatever it takes."""
    yield from ("/", "/flows", f"/flows/{key}", f"/log/{topic}", f"/log/{topic}/0/0", "/parked", "/verify")
    yield from ("/at", f"/at/billing/accounts?key={key}", f"/at/billing?key={key}&diff=live")
    text = quote(TEXT, safe="")
    yield from (f"/flows/{text}", f"/log/{text}", f"/at/{text}?key={text}", f"/search?q={text}")
    for name in ("of", "state", "outcome", "amount", "since", "until", "slower"):
        yield f"/flows?{name}={text}"
    for query in (f"key={text}", f"type={text}", f"header=x%3D{text}"):
        yield f"/log/{topic}?{query}"
    for name in ("key", "moment", "diff", "row"):
        yield f"/at/billing/accounts?key={key}&{name}={text}"


async def look_at_everything(address: str, key: str, topic: str) -> None:
    """As a browser does: in a thread of its own nothing is seen of it."""
    async with httpx2.AsyncClient(base_url=address, trust_env=False, timeout=120) as browser:
        for url in everything(key, topic):
            for form in (url, f"/live{url}"):
                try:
                    async with asyncio.timeout(1 if form != url and url in ("/", f"/flows/{key}") else 120):
                        answer = await browser.get(form)
                    assert answer.status_code < 500, form
                except TimeoutError:
                    assert form != url, "only what goes on and on is given up"


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(a_story().recorded(tmp_path / "story.ndjson"))


async def test_of_a_recording_nothing_is_evaluated_or_written(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(monkeypatch) as beneath, served(recording) as address:
        await look_at_everything(address, str(ADA), "order-events")
    assert [text for text in beneath.compiled if "evaluated" in text] == []
    assert beneath.written == []
    assert beneath.compiled, "templates are: the hook is there"


@pytest_asyncio.fixture
async def shop(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path: Path
) -> AsyncIterator[Shop]:
    async with a_shop(kafka, postgres, templates, tmp_path / "mail") as shop:
        await shop.start(*SERVICES)
        yield shop


async def test_a_live_system_is_read_and_nothing_else(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await shop.customer("400.00")
    assert (await ada.order("100.00", wait=30)).json()["status"] == "confirmed"
    roles = {name: name for name in SERVICES}
    observer = replace(
        shop.installation, database_urls=shop.observer_urls, owner_urls={}, runtime_roles=roles
    )
    with watched(monkeypatch) as beneath, served(observer) as address:
        await look_at_everything(address, str(ada.id), f"{shop.settings.topic_prefix}order-events")
    assert beneath.kafka - READS.keys() == set()
    assert {1, 2, 3} <= beneath.kafka and len(beneath.statements) > 10, "it was seen"
    assert beneath.writing == []
    assert [text for text in beneath.compiled if "evaluated" in text] == []
    assert beneath.written == []
