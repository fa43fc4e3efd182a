"""What is parked fails again where it failed, as often as somebody looks, and nothing comes of it."""

import asyncio
import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.cli.debugging import rebuild
from choreo.cli.main import app
from choreo.cli.running import dlq
from choreo.message.envelope import Event
from choreo.operations.reading import replay_source
from events.order import OrderCreated
from tests.choreography.ending import caught_up, end_offsets
from tests.choreography.test_parking import an_order, producing, retried, with_header
from tests.shop import Shop


@pytest.fixture
def here(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The verbs find it, and it does not print between their lines."""
    for module in (dlq, replay_source):
        monkeypatch.setattr(module, "find_installation", lambda: shop.installation)
    with capture_logs():
        yield shop


async def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    await asyncio.to_thread(app, list(arguments), standalone_mode=False)
    return capsys.readouterr().out


async def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The parked events, oldest first, each with what its command says when it is run."""
    events: list[dict[str, Any]] = json.loads(await called(capsys, "dlq", "show", "--json"))
    for event in events:
        _, *command = shlex.split(event["replay"])
        event["said"] = json.loads(await called(capsys, *command, "--json"))
    return events


async def deploy(shop: Shop, monkeypatch: pytest.MonkeyPatch, code: Any) -> None:
    await shop.stop("billing")
    monkeypatch.setattr(billing_service, "evolve", code)
    await shop.start("billing")


async def test_the_command_that_is_shown_fails_where_the_event_failed(
    here: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it fails on another line after it was retried: with the state it met there."""
    ada = await here.customer("10.00")

    def buggy(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(ada.id) and isinstance(event.data, OrderCreated) and event.data.price != 400:
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    def half_mended(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(ada.id) and isinstance(event.data, OrderCreated) and event.data.price == 400:
            raise KeyError(len(state.payments))
        return evolve(state, event)

    await deploy(here, monkeypatch, buggy)
    for price in ("6.00", "4.00", "1.00"):
        assert (await ada.order(price)).status_code == 202
    await caught_up(here)
    ends = await end_offsets(here)
    before = here.rows("billing", "SELECT * FROM parked ORDER BY position")
    head, *behind = await shown(capsys)
    assert (head["said"]["kind"], head["said"]["id"], head["said"]["parked"]) == ("break", head["id"], True)
    assert head["said"]["data"]["price"] == 600
    assert head["said"]["state"]["account"]["balance"] == 1000
    assert head["said"]["raises"] == f"raises ZeroDivisionError('a bug') at {head['place']}"
    assert [one["said"] for one in behind] == [head["said"]] * 2
    steps = await called(capsys, "replay", "live", "--service", "billing", "--key", str(ada.id))
    assert steps.count("  parked\n") == 3 and f"raises ZeroDivisionError('a bug') at {head['place']}" in steps
    assert here.rows("billing", "SELECT * FROM parked ORDER BY position") == before
    assert await end_offsets(here) == ends

    await deploy(here, monkeypatch, half_mended)
    await retried(here)
    failed, behind_it = await shown(capsys)
    assert failed["said"]["raises"] == f"raises KeyError(0) at {failed['place']}"
    assert failed["said"]["data"]["price"] == 400
    assert failed["said"]["state"]["account"]["balance"] == 400, "it was tried after the first was paid"
    assert behind_it["said"] == failed["said"]


async def test_what_cannot_be_read_says_why_again_and_whose_rows_it_would_have_met(
    here: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = await here.customer("10.00")
    async with producing(here) as send:
        await send(with_header(an_order(ada.id), "ce_dataschema", b"urn:choreo:OrderCreated:2"))
    await ada.order("1.00")
    await caught_up(here)
    head, behind = await shown(capsys)
    assert head["said"]["raises"] == f"raises UnknownVersion({head['error']!r})"
    assert "is of version 2" in head["error"]
    assert head["said"]["state"]["account"]["balance"] == 1000
    assert behind["said"] == head["said"]
    told = await called(capsys, *shlex.split(head["replay"])[1:])
    assert "--break is true before the parked record" in told and "is of version 2" in told


async def test_a_record_that_is_no_event_is_never_a_match(
    here: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Billing's rows are rightly rebuilt without it; those of the topic's own service cannot be."""
    for module in (rebuild, replay_source):
        monkeypatch.setattr(module, "find_installation", lambda: here.installation)
    ada = await here.customer("10.00")
    async with producing(here) as send:
        await send(with_header(an_order(ada.id), "ce_type", b"OrderPraised"))
        await send(with_header(an_order(ada.id), "ce_dataschema", b"urn:choreo:OrderCreated:2"))
    await caught_up(here)
    expected = {
        ("verify",): (1, ["unknown event type 'OrderPraised'", "OrderCreated is of version 2"]),
        ("rebuild", "billing"): (0, ["equal: 0 rows differ"]),
        ("rebuild", "order"): (3, ["cannot be read: OrderCreated is of version 2"]),
        ("state", "billing", "--at", "-0s"): (0, []),
    }
    for arguments, (exit_code, says) in expected.items():
        code = await asyncio.to_thread(app, list(arguments), standalone_mode=False)
        told = capsys.readouterr().out
        assert (code or 0, [one for one in says if one not in told]) == (exit_code, []), told


async def test_once_the_code_is_mended_the_command_says_what_would_be_decided(
    here: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = await here.customer("10.00")

    def buggy(state: Billing, event: Event[Any]) -> Billing:
        if event.key == str(ada.id) and isinstance(event.data, OrderCreated):
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    await deploy(here, monkeypatch, buggy)
    await ada.order("6.00")
    await caught_up(here)
    monkeypatch.setattr(billing_service, "evolve", evolve)
    (event,) = await shown(capsys)
    assert [one["type"] for one in event["said"]["decided"]] == ["PaymentConfirmed"]
    told = await called(capsys, "dlq", "retry", "--dry-run")
    assert "PaymentConfirmed" in told and "balance" in told and "1000 → 400" in told
    assert (await ada.account()).json()["balance"] == "10.00"
    await retried(here)
    assert (await ada.account()).json()["balance"] == "4.00"
