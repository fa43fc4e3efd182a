"""The comparison with other solutions: its judge, its table of contenders, what it prints and keeps."""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree

import pytest
from setuptools import find_namespace_packages  # type: ignore[import-untyped]

from choreo.benchmarks.charts.bars import bars
from choreo.benchmarks.latency import quantiles
from choreo.benchmarks.peers import programme
from choreo.benchmarks.peers.catalog import CONTENDERS
from choreo.benchmarks.peers.checker import Leg, Order, Rows, Verdict, check
from choreo.benchmarks.peers.environment import PROGRAMS
from choreo.benchmarks.peers.measure import Figures
from choreo.benchmarks.peers.peer import Peer
from choreo.benchmarks.peers.report import with_latest
from choreo.cli.main import imported
from choreo.errors import Unavailable, UsageError
from choreo.progress import Progress

ROOT = Path(__file__).parents[2]
PEERS = [name for name, contender in CONTENDERS.items() if isinstance(contender, Peer)]

ANN, PAID, REFUSED = uuid4(), Order(uuid4(), 300, "confirmed"), Order(uuid4(), 800, "rejected")


def entry(kind: str, amount: int, order: UUID | None, other: str) -> list[Leg]:
    id = uuid4()
    return [Leg(id, "customer", ANN, kind, amount, order), Leg(id, other, ANN, kind, -amount, order)]


DEPOSIT, PAYMENT = entry("deposit", 1000, None, "world"), entry("payment", -300, PAID.id, "shop")
SOUND = Rows(
    orders=[PAID, REFUSED],
    payments=[(PAID.id, "confirmed"), (REFUSED.id, "rejected")],
    ledger=[*DEPOSIT, *PAYMENT],
    balances=[(ANN, 700)],
    notified=[PAID.id, REFUSED.id],
)


# The judge.


def test_two_orders_that_ended_once_and_money_that_adds_up_are_sound() -> None:
    assert check(SOUND, {PAID.id, REFUSED.id}) == Verdict(2, [], [], [])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (replace(SOUND, orders=[PAID]), "was accepted and is not stored"),
        (replace(SOUND, payments=[(PAID.id, "confirmed")]), "nothing was decided about it"),
        (replace(SOUND, orders=[PAID, replace(REFUSED, status="created")]), "is still created"),
        (replace(SOUND, notified=[PAID.id]), "has no notification"),
    ],
)
def test_it_finds_a_lost_order(rows: Rows, said: str) -> None:
    (found,) = check(rows, {PAID.id, REFUSED.id}).lost
    assert str(REFUSED.id) in found and said in found


def test_an_order_that_is_stored_is_judged_though_nobody_was_told_of_it() -> None:
    assert len(check(replace(SOUND, notified=[]), ()).lost) == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (replace(SOUND, notified=[*SOUND.notified, PAID.id]), "was notified 2 times"),
        (replace(SOUND, payments=[*SOUND.payments, (PAID.id, "confirmed")]), "was decided 2 times"),
        (
            replace(
                SOUND,
                ledger=[*SOUND.ledger, *entry("payment", -300, PAID.id, "shop")],
                balances=[(ANN, 400)],
            ),
            "was paid 2 times",
        ),
    ],
)
def test_it_finds_what_was_done_twice(rows: Rows, said: str) -> None:
    verdict = check(rows, ())
    (found,) = verdict.doubled
    assert str(PAID.id) in found and said in found and not verdict.lost and not verdict.money


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (replace(SOUND, balances=[(ANN, 701)]), "holds 701, and its ledger says 700"),
        (
            replace(SOUND, ledger=[*SOUND.ledger[:3], replace(PAYMENT[1], amount=299)]),
            "sum to zero but to -1",
        ),
        (replace(SOUND, ledger=DEPOSIT, balances=[(ANN, 1000)]), "is confirmed and the shop got nothing"),
        (
            replace(
                SOUND,
                ledger=[*SOUND.ledger, *entry("payment", -800, REFUSED.id, "shop")],
                balances=[(ANN, -100)],
            ),
            "is overdrawn: -100",
        ),
        (replace(SOUND, orders=[PAID, replace(REFUSED, status="confirmed")]), "its payment rejected"),
    ],
)
def test_it_finds_money_that_does_not_add_up(rows: Rows, said: str) -> None:
    assert any(said in found for found in check(rows, ()).money)


# The contenders.


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_a_lock_that_names_all_it_asks_for_with_hashes(name: str) -> None:
    asked = (PROGRAMS / name / "requirements.in").read_text().split()
    entries = (PROGRAMS / name / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    locked = [line for line in entries if "==" in line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in locked)
    assert {package.partition("[")[0] for package in asked} <= {line.partition("==")[0] for line in locked}


def test_the_npm_lock_has_hashes_and_names_no_host() -> None:
    locks = list(PROGRAMS.glob("*/package-lock.json"))
    for lock in locks:
        packages = {name: one for name, one in json.loads(lock.read_text())["packages"].items() if name}
        assert packages and all(one["integrity"].startswith("sha512-") for one in packages.values())
        assert not any("resolved" in one for one in packages.values())
    assert locks


@pytest.mark.parametrize("name", PEERS)
def test_each_program_a_peer_is_started_with_is_there(name: str) -> None:
    peer = CONTENDERS[name]
    assert isinstance(peer, Peer)
    words = [word.partition(":")[0] for command in peer.programs.values() for word in command.split()]
    modules = {file.stem for file in (PROGRAMS / name).glob("*.py")}
    assert len(modules.intersection(words)) == len(peer.programs)


def test_the_wheel_leaves_the_peers_out() -> None:
    how = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), **how)
    assert "choreo.benchmarks" in packages and not [name for name in packages if ".peers" in name]


# The command.


def test_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert imported("bench-peers").main(["--help"], standalone_mode=False) == 0
    told = capsys.readouterr().out
    assert all(option in told for option in ("--only", "--runs", "--quick", "--json", "--keep"))


def test_an_unknown_peer_is_one_sentence_that_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"^There is no peer celery: name one of collaboration, .*\.$"):
        programme.run(["monolith", "celery"], 1, quick=True, as_json=True, keep=False)


def test_a_peer_whose_server_cannot_be_had_is_a_sentence_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    others = [Stub("before"), CONTENDERS["dramatiq"], Stub("after")]
    can_run, skipped = programme._prepare(others, Progress())
    assert [contender.name for contender in can_run] == ["before", "after"]
    assert skipped == {
        "dramatiq": "redis-server is not here: install the distribution's package of that name."
    }


def test_a_run_that_fails_is_told_and_the_next_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "_one_run", failing_at_first())
    skipped: dict[str, str] = {}
    found = programme._rounds([Stub("a"), Stub("b")], 2, True, skipped, Progress())
    assert {name: len(runs) for name, runs in found.items()} == {"a": 1, "b": 2}
    assert skipped == {"a": "run 1 of 2 was given up: the disk is full."}


# What is printed and kept.


def test_the_drawing_is_svg_with_a_bar_for_each() -> None:
    drawn = ElementTree.fromstring(bars("a < b", {"one": [10.0, 30.0, 20.0], "two & more": [0.0]}))
    long = [float(bar.attrib["width"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(long) == 2 and long[0] > 0 == long[1]


def test_the_page_keeps_the_latest_run_alone_and_all_around_it() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    once = with_latest(page, results(commit="first"))
    twice = with_latest(once, results(commit="second"))
    assert "commit first" in once and "commit first" not in twice and "commit second" in twice
    assert "2 lost, 1 doubled in 10" in twice
    assert with_latest(twice, results(commit="first")) == once
    begin = page.index("<!-- the latest run -->")
    assert once[:begin] == page[:begin] and once.endswith(
        page[page.index("<!-- the end of the latest run -->") :]
    )


class Stub:
    what = lacks = "nothing"

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, say: Callable[[str], None]) -> None:
        pass

    def versions(self) -> dict[str, str]:
        return {"stub": "1"}

    def running(self, directory: Path) -> Any:
        raise AssertionError("not here")


def figures() -> Figures:
    return Figures(100.0, 2.0, quantiles([0.01]), quantiles([0.02]), Verdict(10, ["a", "b"], ["c"], []))


def failing_at_first() -> Callable[..., Figures]:
    said: list[Sequence[Any]] = []

    def one_run(*told: Any) -> Figures:
        said.append(told)
        if len(said) == 1:
            raise Unavailable("the disk is full.")
        return figures()

    return one_run


def results(commit: str) -> dict[str, Any]:
    return {
        "date": "2026-01-01 00:00 UTC",
        "commit": commit,
        "machine": {"cores": 2},
        "settings": {"load": "some"},
        "contenders": {"stub": programme._row(Stub("stub"), [figures()])},
        "skipped": {"other": "cannot be had."},
    }
