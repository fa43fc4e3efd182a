"""What the benchmark computes of what it measured, and what it tells of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from choreo.benchmarks import programme
from choreo.benchmarks.results.comparison import Figure, compare, read_earlier
from choreo.benchmarks.results.report import show
from choreo.cli.main import app
from choreo.errors import UsageError

MACHINE = {"cores": 2, "load_before": 0.1}


def results(**measured: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "seconds": 20, **measured}


# Which measurements there are.


def asked_for(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """The names with which `choreo bench` measures."""
    asked: list[str] = []
    monkeypatch.setattr(programme, "run", lambda seconds, events, names, **_: asked.extend(names))
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 0, done.output
    return asked


def test_only_may_be_given_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(monkeypatch, "--only", "latency", "--only", "replay") == ["latency", "replay"]


def test_without_only_all_is_measured_that_can_share_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(monkeypatch) == list(programme.TOGETHER)


def test_what_shares_no_system_gets_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    systems: list[list[str]] = []

    def measured(seconds: int, events: int, names: list[str], progress: object) -> dict[str, Any]:
        systems.append(names)
        return {}

    monkeypatch.setattr(programme, "_on_one_system", measured)
    monkeypatch.setattr(programme, "show", lambda *_, **__: None)
    programme.run(1, 4000, ["replay", "sustained", "hostile", "latency"], as_json=True)
    assert systems == [["latency", "sustained"], ["hostile"], ["replay"]]


# What an earlier run had.


def test_ratios_are_of_now_to_earlier() -> None:
    before = results(sustained={"orders_per_second": 800.0, "cpu_ms_per_order": {"order": 0.5}})
    now = results(sustained={"orders_per_second": 2000.0, "cpu_ms_per_order": {"order": 0.25}})
    found = compare(before, now)
    assert found.figures == [
        Figure("sustained.orders_per_second", 800.0, 2000.0),
        Figure("sustained.cpu_ms_per_order.order", 0.5, 0.25),
    ]
    assert [figure.ratio for figure in found.figures] == [2.5, 0.5] and found.remarks == []


def test_figures_in_lists_are_compared_and_words_are_not() -> None:
    before = results(hostile=[{"what": "nobody", "p99_ms": 10}])
    (figure,) = compare(before, results(hostile=[{"what": "nobody", "p99_ms": 5}])).figures
    assert (figure.name, figure.ratio) == ("hostile.0.p99_ms", 0.5)


def test_nothing_is_a_multiple_of_zero() -> None:
    assert Figure("overload.late", 0, 3).ratio is None


def test_each_figure_that_one_side_lacks_is_a_sentence() -> None:
    before = results(latency={"paid": {"p50_ms": 1.0}}, waits={"waits": 1000, "seconds": 20})
    now = results(latency={"mailed": {"p50_ms": 1.0}}, rest={"seconds": 10})
    assert compare(before, now).remarks == [
        "The earlier run has no latency.mailed.p50_ms.",
        "The earlier run has no rest.",
        "This run has no latency.paid.p50_ms.",
        "This run has no waits.",
    ]


def test_other_conditions_are_told() -> None:
    now = results() | {"machine": {"cores": 4, "load_before": 0.1}, "seconds": 5}
    assert compare(results(), now).remarks == [
        "Under other conditions: cores was 2 and is 4.",
        "Under other conditions: seconds was 20 and is 5.",
    ]


@pytest.mark.parametrize("content", ["not JSON", "[]", "{}", '{"machine": 1}'])
def test_what_holds_no_figures_is_refused_before_anything_is_measured(content: str, tmp_path: Path) -> None:
    file = tmp_path / "earlier.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"earlier\.json"):
        programme.run(1, 4000, ["startup"], earlier=file, as_json=True)


def test_what_json_prints_can_be_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "earlier.json"
    now = results(startup={"first_seconds": 6.0})
    show(now, None, as_json=True)
    file.write_text(capsys.readouterr().out)
    show(now, compare(read_earlier(file), now), as_json=True)
    assert json.loads(capsys.readouterr().out)["compared"]["ratios"] == {"startup.first_seconds": 1.0}
    show(now | {"startup": {"first_seconds": 1.0, "second_seconds": 1.0, "stop_seconds": 1.0}},
         compare(read_earlier(file), now), as_json=False)  # fmt: skip
    assert "startup.first_seconds" in capsys.readouterr().out
