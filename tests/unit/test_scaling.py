"""What is computed from what an order costs, and what docs/ tell of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from choreo.benchmarks import programme
from choreo.benchmarks.programme import Wanted
from choreo.benchmarks.results import page
from choreo.benchmarks.results.scaling import first_alone, machine, machines, told
from choreo.errors import Unavailable

COSTS = {"order": 0.4, "billing": 0.2, "user": 0.0, "postgres": 0.3, "kafka": 0.1, "load generator": 9.0}
"""A millisecond in all, and what is not of the system."""


def test_a_machine_is_full_when_four_fifths_of_its_cores_are_busy() -> None:
    two = machine(2, COSTS)
    assert two.orders_per_second == pytest.approx(1600)
    assert two.processes == {"order": 1, "billing": 1} and two.limit == "its cores"
    eight = machine(8, COSTS)
    assert eight.orders_per_second == pytest.approx(6400)
    assert eight.processes == {"order": 4, "billing": 2}, "no process of them is busier than four fifths"


def test_a_service_has_no_more_processes_than_topics_have_partitions() -> None:
    large = machine(64, COSTS)
    assert large.orders_per_second == pytest.approx(0.8 * 12 / 0.0004)
    assert large.processes["order"] == 12 and large.limit == "12 processes of order"


def test_the_first_that_is_full_is_the_costliest_that_is_one_process() -> None:
    part, rate = first_alone(COSTS)
    assert part == "order" and rate == pytest.approx(2000.0)
    assert first_alone({**COSTS, "postgres": 5.0})[0] == "order", "Postgres has a process for each session"


def test_machines_are_counted_upwards() -> None:
    assert machines(100_000, 2, COSTS) == 63  # of 1,600 each
    assert machines(1600, 2, COSTS) == 1
    assert machines(1601, 2, COSTS) == 2


def test_the_table_leaves_out_who_asks_and_what_costs_nothing() -> None:
    lines = "\n".join(told(COSTS, wal_bytes=1000, topic_bytes=500))
    assert "load generator" not in lines and "| user" not in lines
    assert "| together | 1000 | 800 |" in lines
    assert "order is the first with no core to spare: at 2,000 orders/s" in lines
    assert "1000 bytes of write-ahead log and 500 of topics" in lines


# What is kept in docs/.


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "benchmarks").mkdir()
    for name in ("benchmarks.md", "scaling.md"):
        (tmp_path / name).write_text(f"# Before\n\n{page._BEGIN}\nold\n\n{page._END}\nAfter.\n")
    monkeypatch.setattr(page, "_DOCS", tmp_path)
    monkeypatch.setattr(page, "_FIGURES", tmp_path / "benchmarks" / "shop.json")
    return tmp_path


def run_of(command: str, **found: Any) -> dict[str, Any]:
    machine = {
        "cores": 2, "cpu": "a CPU", "memory_gib": 8, "system": "Linux", "python": "3.11", "load_before": 0.1
    }  # fmt: skip
    of = {"date": "today", "commit": "abc", "machine": machine, "seconds": 20, "command": command}
    return {**of, "judged": {}, **found}


STARTUP = {"first_seconds": 6.0, "second_seconds": 5.0, "stop_seconds": 1.0}
CONSUMER = {"700": {"records": 7000, "cpu_us": 150.0, "p50_ms": 20.0, "p99_ms": 60.0}}


def test_what_is_measured_later_stands_beside_what_was_before(docs: Path) -> None:
    page.keep(run_of("choreo bench --only startup", startup=STARTUP))
    page.keep(run_of("choreo bench --only consumer", consumer=CONSUMER))
    page.keep(run_of("choreo bench --only consumer --seconds 5", consumer=CONSUMER))
    told = (docs / "benchmarks.md").read_text()
    assert told.startswith("# Before\n") and told.endswith("After.\n") and "old" not in told
    assert "| first and second start to ready, after installation | 6.0 s, 5.0 s | 1 |" in told
    assert "| a record from Kafka to the kernel, 700/s | 150 µs; p50 20 ms | 2 |" in told
    assert "1. today, commit abc, 2 cores" in told
    assert "`choreo bench --only consumer --seconds 5`" in told and "--only consumer`" not in told
    assert set(json.loads((docs / "benchmarks" / "shop.json").read_text())) == {"startup", "consumer"}


def test_where_there_are_no_pages_that_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_FIGURES", tmp_path / "benchmarks" / "shop.json")
    with pytest.raises(Unavailable, match="from a checkout"):
        programme.run(Wanted(["startup"], 1, 4000), kept=True)


def test_without_costs_the_page_says_what_measures_them(docs: Path) -> None:
    page.keep(run_of("choreo bench --only startup", startup=STARTUP))
    assert "--only capacity" in (docs / "scaling.md").read_text()


def test_a_rate_that_was_not_found_is_told_as_what_it_is_less_than() -> None:
    none: dict[str, Any] = {"rate": None, "too_much": 90.0, "cpu_ms_per_order": {}, "trials": []}
    some = {"rate": 900.0, "too_much": 990.0, "cpu_ms_per_order": COSTS, "trials": []}
    rows = dict(page._capacity({"without_mails": some, "with_mails": none, "at_half": None}))
    assert rows["the most orders that may come: decided, stored and mailed"] == "less than 90/s"
    assert rows["the most orders that may come: decided and stored, mailer held"].startswith("900/s, 990 are")
    assert rows["CPU of an order then (without mails)"].startswith("1000 µs: order 400, billing 200")


def test_the_pages_have_room_for_what_is_kept() -> None:
    for name in ("benchmarks.md", "scaling.md"):
        text = (page._DOCS / name).read_text()
        assert text.count(page._BEGIN) == text.count(page._END) == 1
