"""Closed to a loop, unchanged code makes the record again; changed code tells what would have come of it."""

import asyncio
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from choreo.what_if import what_if
from replay.closed_loop import closed_loop
from replay.findings import Report
from replay.live import open_live
from replay.recording import Recording
from replay.services import services
from replay.verify import Tally
from tests.choreography.ending import _ends
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed
from tests.shop import Shop
from tests.unit.choreography import Choreography
from tests.unit.test_choreography import AnyOrder

live = pytest.mark.asyncio(loop_scope="module")


def of(shop: Constructed) -> Tally:
    known = services(shop.cut.settings)
    return asyncio.run(closed_loop(shop, {name: known[name] for name in NAMES}))


# -- the law -----------------------------------------------------------------------------------------


class AnyRecord(AnyOrder):
    """Any interleaving, recorded at any moment."""

    world: ClassVar[type[Choreography]] = Constructed

    def teardown(self) -> None:
        self.matches()
        self.shop.settle()
        self.matches()

    def matches(self) -> None:
        assert isinstance(self.shop, Constructed)
        tally = of(self.shop)
        assert tally.findings == []
        assert tally.counts["inputs"] == sum(len(one.journal) for one in self.shop.journaling.values())
        assert tally.counts["facts"] == sum(len(one.decided) for one in self.shop.journaling.values())


def test_unchanged_code_makes_any_record_again() -> None:
    looking = settings(
        max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(AnyRecord, settings=looking)


async def looped(shop: Shop, *plants_: str) -> Report:
    here = shop.installation
    async with open_live(here.kafka, here.database_urls, here.settings) as source:
        return await what_if(source, preload=[f"{plants.__name__}:{plant}" for plant in plants_])


@live
async def test_an_unchanged_shop_is_the_record_and_nothing_is_sent_or_published(played: Shop) -> None:
    ends, mails = await _ends(played), sorted(played.maildir.rglob("*"))
    report = await looped(played)
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)
    assert report.counts["facts"] > 30 and report.counts["orders"] > 8
    assert (await _ends(played), sorted(played.maildir.rglob("*"))) == (ends, mails)


@live
async def test_so_is_its_recording(recording: Recording) -> None:
    report = await what_if(recording)
    assert (report.findings, report.unstable, report.exit_code) == ([], [], 0)
