"""The same on a real shop: state, blame and replay read it, and leave it as it is."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from choreo.cli.debugging import blame as blame_verb
from choreo.cli.debugging.record import recorded
from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.operations.reading import replay_source
from choreo.replay.sources import one_key
from choreo.replay.sources.one_key import records_at
from tests.choreography.ending import sent_out
from tests.services import SERVICES
from tests.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def here(played: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The verbs find it."""
    for module in (replay_source, blame_verb):
        monkeypatch.setattr(module, "find_installation", lambda: played.installation)
    return played


async def choreo(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    """What the verb prints as JSON, one value or several lines."""
    await asyncio.to_thread(app, [*arguments, "--json"], standalone_mode=False)
    told = capsys.readouterr().out
    return [json.loads(told)] if told.startswith("{\n") else [json.loads(line) for line in told.splitlines()]


async def test_now_is_what_the_tables_have(here: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = await sent_out(here)
    for service in SERVICES:
        (told,) = await choreo(capsys, "state", service, "--at", "-0s", "--diff", "live")
        assert told["differences"] == []
    assert await sent_out(here) == before


@pytest.mark.parametrize("near", [200, 0], ids=["records are read over", "records are sought past"])
async def test_records_are_found_by_their_offsets(
    here: Shop, monkeypatch: pytest.MonkeyPatch, near: int
) -> None:
    heard = sorted(
        here.rows("order", """SELECT topic, partition, "offset" FROM journal WHERE kind = 'fact'""")
    )
    whole = {(r.topic, r.partition, r.offset): r for r in await records_at(here.installation.kafka, heard)}
    assert sorted(whole) == heard
    monkeypatch.setattr(one_key, "_NEAR", near)
    some = await records_at(here.installation.kafka, [*heard[::3], (heard[0][0], 0, 999_999)])
    assert some == [whole[place] for place in heard[::3]]


async def test_one_key_is_as_the_whole_is(here: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Read by index and offset, or with everything else."""
    key, id = here.rows("billing", "SELECT key, id FROM journal WHERE type = 'OrderCreated' LIMIT 1")[0]
    (whole,) = await choreo(capsys, "state", "billing", "--at", str(id))
    (alone,) = await choreo(capsys, "state", "billing", "--at", str(id), "--key", key)
    for table, rows in alone["tables"].items():
        assert rows == [one for one in whole["tables"][table] if one["row"].get("user_id") == key]
    assert alone["tables"]["payments"]
    (told,) = await choreo(capsys, "state", "billing", "--at", str(id), "--key", key, "--diff", "live")
    assert all(one["cause"] is not None for one in told["differences"])


async def test_a_place_in_its_own_topic_is_the_event_there(
    here: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    query = """SELECT id, topic, partition, "offset" FROM journal WHERE type = 'PaymentConfirmed' LIMIT 1"""
    id, topic, partition, offset = here.rows("notification", query)[0]
    (place,) = await choreo(capsys, "state", "billing", "--at", f"{topic}[{partition}]@{offset}")
    (event,) = await choreo(capsys, "state", "billing", "--at", str(id))
    assert place["tables"] == event["tables"] and event["tables"]["payments"]
    with pytest.raises(UsageError, match="No event lies at"):
        await choreo(capsys, "state", "billing", "--at", "billing-events[0]@999999")


async def test_blame_follows_every_row_to_its_cause(
    here: Shop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the running system, and the same in its recording."""
    await recorded(here.installation, tmp_path / "shop.ndjson", with_addresses=True)
    for entry, side in here.rows("billing", "SELECT entry_id, side FROM ledger LIMIT 2"):
        row = ("blame", "billing", "ledger", f"{entry},{side}")
        (live,) = await choreo(capsys, *row)
        (file,) = await choreo(capsys, *row, str(tmp_path / "shop.ndjson"))
        for column, told in live["columns"].items():
            assert told["cause"]["fact_id"] == str(entry)
            assert told["cause"] == file["columns"][column]["cause"]
    with pytest.raises(UsageError, match="accounts of billing has no row"):
        await choreo(capsys, "blame", "billing", "accounts", str(uuid4()))


async def test_replay_stops_before_a_step_of_the_running_system(
    here: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = 'type=="OrderCreated" and state.account and state.account.balance < price'
    (told,) = await choreo(capsys, "replay", "live", "--service", "billing", "--break", stop)
    assert [event["type"] for event in told["decided"]] == ["PaymentRejected"]
    *steps, end = await choreo(capsys, "replay", "live", "--service", "user")
    assert end["steps"] == len(steps)
    assert any(step["refused"] and step["refused"]["type"] == "LoginTaken" for step in steps)
