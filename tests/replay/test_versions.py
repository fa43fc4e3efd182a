"""What a past release wrote stays readable: lifted on reading, live and in replay alike."""

import json
from pathlib import Path

import pytest

from choreo.chassis.registry import services
from choreo.cli.debugging.rebuild import rebuilt
from choreo.cli.debugging.record import recorded
from choreo.cli.main import app
from choreo.message.codec import TopicRecord
from choreo.message.schema import path_of
from choreo.message.upcast import UPCASTERS
from choreo.replay.sources.live import open_live
from choreo.replay.sources.recording import Recording
from choreo.replay.verify.report import report_on
from choreo.replay.verify.verify import verify
from tests.choreography.ending import settled
from tests.choreography.test_parking import producing
from tests.replay import versions
from tests.services import FACTS, SERVICES
from tests.shop import Shop

RECORDINGS = sorted((Path(__file__).parents[2] / "events" / "recordings").glob("*.ndjson"))
PRELOAD = [f"{versions.__name__}:{versions.introduce.__name__}"]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_of_a_past_release_matches_todays_code(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meant = path.with_suffix(".toml")
    allowed = ["--allow", str(meant)] if meant.exists() else []
    assert app(["verify", str(path), *allowed], standalone_mode=False) == 0, capsys.readouterr().out


def test_every_version_of_every_fact_is_in_one_of_them() -> None:
    recorded = {
        dict(item.record.headers)["ce_dataschema"]
        for path in RECORDINGS
        for batch in Recording(path).read()
        for item in batch
        if isinstance(item, TopicRecord)
    }
    folders = {path_of(fact).parent for fact in FACTS}
    stored = {json.loads(path.read_text())["$id"].encode() for folder in folders for path in folder.iterdir()}
    assert recorded == stored, "docs/changing-an-event.md says how a recording is made"


async def test_a_service_hears_an_older_version_live_and_in_replay_alike(
    closed_shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop = closed_shop
    versions.introduce(monkeypatch)
    await shop.start(*SERVICES)
    ada = await shop.customer("10.00")
    async with producing(shop) as send:
        await send(versions.of_version_1(ada.id, euros=5))
        await send(versions.of_version_2(ada.id, amount=2_50))
    await shop.until("billing", ada, ada.account, lambda answer: answer.json()["balance"] == "17.50")
    await settled(shop)
    assert (await rebuilt(shop.installation, "billing")).exit_code == 0
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        report = await report_on(source, ["billing"], preload=PRELOAD)
    assert (report.findings, report.exit_code) == ([], 0)

    await recorded(here, tmp_path / "goodwill.ndjson")
    recording = Recording(tmp_path / "goodwill.ndjson")
    report = await report_on(recording, ["billing"], preload=PRELOAD)
    assert (report.findings, report.exit_code) == ([], 0)

    monkeypatch.delitem(UPCASTERS, ("GoodwillGranted", 1))
    tally = await verify(recording, {"billing": services(here.settings)["billing"]})
    assert [finding.kind for finding in tally.findings] == ["incomplete"]
    assert "GoodwillGranted" in tally.findings[0].says
