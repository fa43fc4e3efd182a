"""What a long programme of faults is, and what is told of it."""

import json
import signal
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from choreo.chaos.faults.clean import killed
from choreo.chaos.faults.nemesis import systems
from choreo.chaos.judge import Violation
from choreo.chaos.results.report import Report, percentile
from choreo.chaos.trial import Outcome, Timeline
from choreo.cli.programmes.chaos import chaos
from choreo.errors import UsageError

HELD = Outcome(
    killed("billing", signal.SIGKILL),
    requests=Counter(ok=90, unknown=1),
    attempts=95,
    events=200,
    repeats=1,
    repeated_mails=0,
    recovery=2.0,
    violations=(),
    gave_up=False,
    struck_at=1_000.0,
)
BROKEN = replace(HELD, recovery=9.0, violations=(Violation("I1", "money came from nowhere"),))


def test_a_page_a_drawing_and_lines_tell_of_all_systems(tmp_path: Path) -> None:
    report = Report(tmp_path / "new", "choreo chaos --hours 1")
    report.add([HELD] * 3, Timeline([1001.0, 1002.0], [(1001.5, 7)]))
    report.add([BROKEN], Timeline([1101.0], []))
    page = (tmp_path / "new" / "chaos.md").read_text()
    assert "| faults | 4: 4 kills, 0 stops |" in page
    assert "| requests | 360 ok, 0 failed, 4 unknown; sent 380 times |" in page
    assert "| everything handled after | 2.0, 9.0, 9.0 |" in page
    assert "| breaches of promises | 1 |" in page
    drawing = ElementTree.parse(tmp_path / "new" / "chaos.svg").getroot()
    assert len(drawing.findall("{*}polyline")) == 2
    lines = [json.loads(line) for line in (tmp_path / "new" / "chaos.ndjson").read_text().splitlines()]
    assert [len(line["violations"]) for line in lines] == [0, 0, 0, 1]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (99, 99), (100, 99), (101, 100), (1000, 990)])
def test_one_of_a_hundred_is_above_the_99th_percentile(count: int, expected: int) -> None:
    assert percentile([*range(count, 0, -1)], 99) == expected


def test_chance_decides_what_comes_and_decides_the_same_again() -> None:
    some = [list(islice(systems(Random(seed)), 6)) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    for arguments, faults, _ in some[0]:
        assert all(fault.judged for fault in faults)
        assert "--brokers" in arguments or {fault.brokers for fault in faults} == {1}
    assert any(fault.name == "storm" for _, faults, _ in some[0] for fault in faults)


def test_where_kills_are_asked_for_nothing_else_comes() -> None:
    some = list(islice(systems(Random(1), only_kills=True), 6))
    assert all(
        "--brokers" in arguments and all(fault.kills for fault in faults) for arguments, faults, _ in some
    )


@pytest.mark.parametrize("until", [{"hours": 1.0}, {"kills": 1}])
@pytest.mark.parametrize("other", [{"half": True}, {"only": ["stop-kafka"]}, {"runs": 2}])
def test_where_chance_decides_nobody_else_does(until: dict[str, Any], other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--hours and --kills"):
        chaos(**until, **other)
