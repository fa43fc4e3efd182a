"""What a decision must not depend on is found, whether or not anything came of it while it was recorded."""

import asyncio
import decimal
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from choreo.replay.engine.changed_in_place import changed_fields, copied
from choreo.replay.engine.deciding_lines import parting
from choreo.replay.sources.recording import Recording
from choreo.replay.verify.report import Report, report_on
from tests.replay import plants
from tests.replay.constructed import NAMES, Constructed
from tests.replay.planted_bugs import TEXTS, choreo, planted

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


def test_whatever_a_handler_reads_is_named_and_nothing_else_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.everything_that_is_read(monkeypatch.setattr)
    with decimal.localcontext():  # which one of them changes
        report = verified(file, plants.everything_that_is_read)
    source = Path(plants.__file__).read_text().splitlines()
    told = [finding.says for finding in report.unstable]
    for what in plants.READS:
        says = re.escape(what.replace("FILE", "/etc/hosts"))
        assert any(re.match(rf"{HERE}:\d+ {says}, called from {HERE}:\d+$", one) for one in told), (
            what,
            told,
        )
    of_lines = {source[int(re.findall(rf"{HERE}:(\d+)", one)[0]) - 1] for one in told}
    assert [line for line in of_lines if not line.startswith('    "')] == []
    assert {finding.kind for finding in report.unstable} == {"effect"}


def test_what_a_service_reads_while_it_is_imported_is_named(file: Path, tmp_path: Path) -> None:
    """But for files of its own package, which are a part of it."""
    place = "@dataclass(frozen=True, slots=True)\nclass Text:"
    lines = "import datetime\nimport os\n\nOPENED = datetime.date.today()\nTONGUE = os.environ.get('LANG')\n"
    own = "SOURCE = open(__file__).read()\n\n\n"
    tree = planted(tmp_path, {TEXTS: [(place, lines + own + place)]})
    ran = choreo("verify", str(file), "--json", tree=tree)
    told = json.loads(ran.stdout)
    assert (ran.returncode, told["findings"]) == (2, [])
    opened, tongue = sorted(told["not_deterministic"], key=lambda one: str(one["handler"]))
    assert re.fullmatch(rf"{TEXTS}:\d+ reads the clock \(date.today\), called from .*", opened["says"])
    assert re.fullmatch(rf"{TEXTS}:\d+ reads the environment \(os.environ\), called .*", tongue["says"])
    for one in (opened, tongue):
        assert (one["service"], one["event"], one["key"]) == ("notification", "", ""), "no input led to it"


@pytest.mark.parametrize("plant", [plants.what_a_module_remembers, plants.the_order_of_a_set_of_two])
def test_what_only_another_process_shows_is_not_deterministic(
    file: Path, plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch.setattr)
    report = verified(file, plant)
    first = report.unstable[0]
    assert (report.exit_code, first.service, first.type) == (2, "billing", "Deposit")


def test_where_two_replays_part_the_first_line_is_named_that_they_do_not_share(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.the_time_zone_decides(monkeypatch.setattr)
    first = verified(file, plants.the_time_zone_decides).unstable[0]
    lines = Path(plants.__file__).read_text().splitlines()
    asked = next(number for number, line in enumerate(lines, start=1) if "if time.timezone ==" in line)
    assert first.parts == (
        f"{HERE}:{asked} leads to {HERE}:{asked + 2} in one replay, and to {HERE}:{asked + 1} in the other"
    )


def test_paths_part_at_their_first_difference_or_end() -> None:
    assert parting(("a", "b"), ("a", "b")) == parting((), ("a",)) == ""
    assert parting(("a", "b"), ("a", "c")) == "a leads to b in one replay, and to c in the other"
    assert parting(("a",), ("a", "c")) == "a leads to the end in one replay, and to c in the other"
    assert parting(("b",), ("c",)) == "the beginning leads to b in one replay, and to c in the other"


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


@dataclass(frozen=True, slots=True)
class Row:
    names: list[str]
    by_name: dict[str, set[int]]
    balance: int


@dataclass(frozen=True, slots=True)
class Rows:
    rows: dict[str, Row]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.rows.clear(),
        lambda rows: rows.rows["a"].names.append("b"),
        lambda rows: rows.rows["a"].by_name["a"].add(2),
        lambda rows: object.__setattr__(rows.rows["a"], "balance", 2),
    ],
)
def test_a_copy_knows_of_every_change_in_place(change: Callable[[Rows], object]) -> None:
    rows = Rows({"a": Row(["a"], {"a": {1}}, 1)})
    before = copied(rows)
    assert changed_fields(before, rows) == ()
    change(rows)
    assert changed_fields(before, rows) == ("rows",)
