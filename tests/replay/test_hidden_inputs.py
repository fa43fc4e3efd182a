"""What a decision must not depend on is found, whether or not anything came of it while it was recorded."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from choreo.replay.sources.recording import Recording
from choreo.replay.verify.report import Report, report_on
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed

HERE = "tests/replay/plants.py"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many deposits of one amount."""
    shop = Constructed()
    shop.register()
    shop.settle()
    for _ in range(12):
        shop.seconds += 1
        shop.deposit(5)
    shop.settle()
    return shop.recorded(tmp_path_factory.mktemp("recorded") / "deposits.ndjson")


def verified(file: Path, plant: Callable[..., None]) -> Report:
    return asyncio.run(report_on(Recording(file), NAMES, preload=[f"{plants.__name__}:{plant.__name__}"]))


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (plants.the_day_of_a_clock, r"reads the clock \(datetime.now\), called from HERE:\d+"),
        (
            plants.the_environment,
            r"reads the environment \(os.environ\), called from billing_service/decide.py:\d+",
        ),
        (plants.chance, r"asks for chance \(os.urandom\), called from billing_service/decide.py:\d+"),
    ],
)
def test_what_a_handler_reads_is_named_even_where_nothing_came_of_it(
    file: Path, plant: Callable[..., None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch.setattr)
    report = verified(file, plant)
    (found,) = report.unstable
    assert re.fullmatch(rf"{HERE}:\d+ {says}".replace("HERE", HERE), found.says)
    assert (report.exit_code, found.kind, found.service, found.type) == (2, "effect", "billing", "Deposit")


@pytest.mark.parametrize("plant", [plants.what_a_module_remembers, plants.the_order_of_a_set_of_two])
def test_what_only_another_process_shows_is_not_deterministic(
    file: Path, plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch.setattr)
    report = verified(file, plant)
    first = report.unstable[0]
    assert (report.exit_code, first.service, first.type) == (2, "billing", "Deposit")


def test_a_state_that_is_changed_in_place_is_named_with_the_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.a_state_changed_in_place(monkeypatch.setattr)
    found = verified(file, plants.a_state_changed_in_place).unstable[0]
    assert re.fullmatch(rf"{HERE}:(\d+) changes ledger of the state it was given in place", found.says)
    number = int(found.handler.rpartition(":")[2])
    assert '["seen", "before"]' in Path(plants.__file__).read_text().splitlines()[number - 1]


def test_a_shop_that_depends_on_nothing_matches(file: Path) -> None:
    report = asyncio.run(report_on(Recording(file), NAMES))
    assert (report.exit_code, report.unstable, report.findings) == (0, [], [])
