"""`choreo demo` as a process: against a running system, and where none runs."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from aiokafka import AIOKafkaProducer

from choreo.cli.running.demo import Acts, perform
from choreo.demo import story
from choreo.demo.client import Customer, registration
from choreo.demo.screens import JsonScreen, TextScreen
from choreo.demo.story import TIMEOUT_SECONDS, Stage
from choreo.message.codec import Record, encode
from choreo.message.envelope import derived_id
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.replay.trace.published_events import PublishedEvent
from events.order import OrderCreated
from tests.component.alone import an_event
from tests.services import TOPICS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def system() -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem() as system:
        system.start()
        yield system


@pytest.fixture(scope="module")
def lines(system: ThrowawaySystem) -> list[dict[str, Any]]:
    """What it prints, where a system runs."""
    return lines_of(demo(system.home, system.port_base))


def demo(home: Path, port_base: int, **more: str) -> "subprocess.Popen[str]":
    outer = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_SERVERS"))}
    own = {"CHOREO_HOME": str(home), "CHOREO_PORT_BASE": str(port_base), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "choreo.cli.main", "demo", "--json"],
        env=outer | own | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), output[-2000:] + errors
    return [json.loads(line) for line in output.splitlines()]


def caused_by(lines: list[dict[str, Any]], method: str, path: str) -> list[list[tuple[str, str]]]:
    """For each such request the events beneath it: type, and because of what."""
    flows = [
        line["flow"]
        for line in lines
        if line["kind"] == "request" and (line["method"], line["path"]) == (method, path)
    ]
    return [
        [
            (line["type"], line["because_of"])
            for line in lines
            if line["kind"] == "event" and line["flow"] == flow
        ]
        for flow in flows
    ]


def test_it_tells_the_story_in_causal_order_on_the_running_system(lines: list[dict[str, Any]]) -> None:
    assert lines[-1] == {"kind": "end", "says": lines[-1]["says"], "holds": True}

    (registered, taken, *_) = caused_by(lines, "POST", "/users")
    assert registered == [("UserRegistered", "POST /users"), ("AccountCreated", "UserRegistered")]
    assert taken == []
    confirmed, rejected, *_ = caused_by(lines, "POST", "/orders")
    assert confirmed == [
        ("OrderCreated", "POST /orders"),
        ("PaymentConfirmed", "OrderCreated"),
        ("NotificationSent", "PaymentConfirmed"),
    ]
    assert rejected == [
        ("OrderCreated", "POST /orders"),
        ("PaymentRejected", "OrderCreated"),
        ("NotificationSent", "PaymentRejected"),
    ]
    events = [line for line in lines if line["kind"] == "event"]
    assert len({(line["topic"], line["partition"], line["offset"]) for line in events}) == len(events)
    subjects = [line["subject"].partition(":")[0] for line in lines if line["kind"] == "mail"]
    assert subjects == ["Good news", "Sorry", "Good news"]


def test_it_tells_what_each_service_did_and_how_long_every_hop_took(lines: list[dict[str, Any]]) -> None:
    (ordered, *_) = [line["flow"] for line in lines if line.get("path") == "/orders" and line["flow"]]
    events = [line for line in lines if line["kind"] == "event" and line["flow"] == ordered]
    assert [(event["type"], event["decided"]["service"], event["decided"]["input"]) for event in events] == [
        ("OrderCreated", "order", "PlaceOrder"),
        ("PaymentConfirmed", "billing", "OrderCreated"),
        ("NotificationSent", "notification", "RecordDelivery"),
    ]
    assert [set(hops_of(event["decided"])) for event in events] == [
        {"queue", "transaction", "outbox"},
        {"outbox"},
        {"waited", "queue", "transaction", "outbox"},
    ]
    heard = [[heard for heard in event["heard"] if heard["outcome"] != "skipped"] for event in events]
    assert [[(one["service"], one["outcome"], one["leads_to"]) for one in each] for each in heard] == [
        [("billing", "applied", ["PaymentConfirmed"])],
        [("order", "applied", []), ("notification", "applied", [])],
        [],
    ]
    for told in (told for each in heard for told in each):
        assert set(hops_of(told)) == {"broker", "consumer", "transaction"}
    for told in (told for event in events for told in (event["decided"], *event["heard"])):
        assert all(ms >= 0 for ms in hops_of(told).values()), told


async def test_it_tells_of_what_waits_what_is_queued_and_what_lies_there_twice(
    system: ThrowawaySystem, capsys: pytest.CaptureFixture[str]
) -> None:
    """Orders of strangers: one whose account never came, twice; one behind a record that is no event."""
    waiting, queued = uuid4(), uuid4()

    async def strange(stage: Stage) -> None:
        """Strangers order"""
        answer = await stage.services["user"].post("/users", json=registration(uuid4().hex))
        flow = UUID(answer.headers["Flow-Id"])
        topic = system.run_file["topic_prefix"] + TOPICS["order"]
        async with AIOKafkaProducer(**system.kafka_access("admin").aiokafka()) as producer:
            await producer.send_and_wait(topic, b"no event", str(queued).encode())
            for record in (order_of(who, flow) for who in (waiting, waiting, queued)):
                await producer.send_and_wait(topic, record.value, record.key, headers=record.headers)
        assert stage.events is not None
        await stage.events.until(flow, lambda events: types_of(events)["OrderCreated"] == 3, TIMEOUT_SECONDS)

    async def play(acts: Acts) -> None:
        await acts.scene(strange)

    assert await perform(play, system.run_file, JsonScreen())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = {
        line["key"]: [heard["outcome"] for heard in line["heard"] if heard["service"] == "billing"]
        for line in lines
        if line["kind"] == "event" and line["type"] == "OrderCreated"
    }
    assert done == {str(waiting): ["waiting", "duplicate"], str(queued): ["queued"]}


async def test_where_the_databases_cannot_be_read_it_says_so_and_tells_the_rest(
    system: ThrowawaySystem, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play(acts: Acts) -> None:
        await acts.scene(story.first_step)

    away = {**system.run_file["owner_urls"], "billing": "postgresql://nobody@127.0.0.1:1/nothing"}
    assert await perform(play, {**system.run_file, "owner_urls": away}, JsonScreen())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (note,) = [line["says"] for line in lines if line["kind"] == "note"]
    assert note.startswith("The services' databases cannot be read, so hops are not told: ")
    events = [(line["type"], line["decided"], line["heard"]) for line in lines if line["kind"] == "event"]
    assert events == [("UserRegistered", None, []), ("AccountCreated", None, [])]


async def test_the_documents_show_what_it_prints(
    system: ThrowawaySystem, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for figures and ids, and for what of a scene the page leaves out."""

    async def play(acts: Acts) -> None:
        ada = await acts.scene(story.signed_in, await acts.scene(story.first_step))
        for scene in (story.account_appears, story.top_up, story.paid):
            await acts.scene(scene, ada)

    assert await perform(play, system.run_file, TextScreen())
    printed = [without_figures(line) for line in capsys.readouterr().out.splitlines()]
    _, _, rest = (ROOT / "docs" / "first-order.md").read_text().partition("`make demo` ")
    shown = rest.split("```")[1].splitlines()[1:]
    assert len(shown) > 8
    assert [line for line in shown if without_figures(line) not in printed] == []


def test_where_none_runs_it_starts_one_and_leaves_nothing_behind() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is too deep for a socket
        here = Path(directory)
        lines = lines_of(demo(here / "nowhere", 9_900, TMPDIR=directory))
        assert lines[-2]["holds"] is True
        assert list(here.iterdir()) == []
        assert [process for process in psutil.process_iter() if _names(process, here)] == []


async def test_an_expectation_that_does_not_hold_is_told_in_a_sentence(
    system: ThrowawaySystem, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong(stage: Stage) -> Customer:
        """Bob has more than he has"""
        bob = await Customer.register(stage.services)
        await stage.eventually("the account is there", bob.account, lambda answer: answer.status_code == 200)
        await stage.causes(await bob.deposit("1.00"), "MoneyDeposited")
        await story.balance_is(stage, bob, "400.00")
        return bob

    async def play(acts: Acts) -> None:
        await acts.scene(wrong)

    assert not await perform(play, system.run_file, JsonScreen())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {
        "kind": "end",
        "says": "It does not hold that the account holds 400.00: expected '400.00', got '1.00'.",
        "holds": False,
    }
    assert "MoneyDeposited" in [line["type"] for line in lines if line["kind"] == "event"]


def order_of(stranger: UUID, flow: UUID) -> Record:
    """As the order service would send it, in somebody else's flow."""
    order = OrderCreated(
        order_id=derived_id("order", stranger),
        user_id=stranger,
        price=100,
        description=None,
        decide_by=datetime.now(UTC),
    )
    return encode(replace(an_event(order, id=derived_id("event", stranger)), correlation_id=flow))


def types_of(events: list[PublishedEvent]) -> Counter[str]:
    return Counter(event.type for event in events)


def hops_of(told: dict[str, Any]) -> dict[str, float]:
    return {name.removesuffix("_ms"): ms for name, ms in told.items() if name.endswith("_ms")}


def without_figures(line: str) -> str:
    return " ".join(re.sub(r"<?[0-9]+(\.[0-9]+)?", "#", line).split())


def _names(process: psutil.Process, path: Path) -> bool:
    """In its arguments or its environment."""
    try:
        return any(str(path) in text for text in (*process.cmdline(), *process.environ().values()))
    except psutil.Error:
        return False
