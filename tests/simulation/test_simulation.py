"""Worlds in simulated time: they hold, a seed is one world, and a promise without its guard breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from choreo.chassis.kafka import consumer
from choreo.errors import HandlerMisbehaves, Unavailable
from choreo.simulation import log, loop, programme, world
from choreo.simulation.awaits import all_awaits
from choreo.simulation.database import give_way
from choreo.simulation.plan import FAULTS, Plan, drawn
from choreo.simulation.programme import simulate, simulate_beside
from choreo.simulation.results.report import Report
from choreo.simulation.results.shrinking import shrunk
from choreo.simulation.world import past_of, play
from tests.removals.in_memory import take_out
from tests.replay import plants

CAUGHT = (
    "journal",
    "next-offset",
    "position-with-effect",
    "hole-in-reading",
    "reading-watched",
    "parked-queue",
    "parked-left-out",
    "read-committed",
    "derived-id",
    "command-id",
    "outbox-in-transaction",
    "answer-after-commit",
    "acknowledge-after-commit",
    "key-lock",
    "locked-sequence",
    "waiting",
    "halving",
    "removal-after-acknowledgement",
    "oldest-first",
)
"""Guards of the promise whose removal is soon seen. docs/simulation.md has the others, too."""
SEEN_IN_CROWDS = "exact-removal", "outbox-position"
"""Commits have to overtake each other, which few worlds have that are drawn."""
SCHEDULES = int(os.environ.get("CHOREO_TEST_SCHEDULES", "1000"))
"""Worlds that nobody has seen before: half a minute of one core. More are asked for by this setting."""
SOON = 400
SEEDS = sorted(Path(__file__).with_name("seeds").glob("*.json"))

_DIGEST = """
import hashlib
from choreo.simulation.world import play
outcome = play(11, trace=True)
print(outcome.steps, hashlib.sha256("\\n".join(outcome.told).encode()).hexdigest())
"""


@pytest.fixture(autouse=True)
def _nothing_is_left_of_a_past_of_other_code() -> Iterator[None]:
    yield
    past_of.cache_clear()


def test_promises_hold_whatever_befalls() -> None:
    """In worlds that nobody has seen before. A failure is played again by its seed, which is told."""
    first = Random().randrange(1_000_000_000)
    print(f"seeds from {first} on")
    summary = simulate(range(first, first + SCHEDULES))
    assert [(outcome.seed, outcome.violations) for outcome in summary.broken] == []
    assert summary.schedules == SCHEDULES
    assert summary.faults > SCHEDULES


@pytest.mark.parametrize("guard", CAUGHT)
def test_a_promise_without_its_guard_is_seen_to_break(monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    take_out(guard, monkeypatch)
    summary = simulate(range(1, 1 + SOON))
    assert summary.broken, f"not seen in {summary.schedules} schedules"
    (broken,) = summary.broken
    assert broken.violations


@pytest.mark.parametrize("guard", SEEN_IN_CROWDS)
def test_a_promise_without_its_guard_is_seen_to_break_where_commits_overtake_each_other(
    monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    take_out(guard, monkeypatch)
    crowd: dict[str, Any] = {"replicas": 2, "partitions": 1, "customers": 2, "orders": 3, "takes_time": 0.8}
    plans = ((seed, replace(drawn(Random(f"plan {seed}")), **crowd)) for seed in range(1, 1 + SOON))
    assert any(play(seed, plan=plan).violations for seed, plan in plans)


def test_a_handler_that_tries_to_reach_outside_ends_it_and_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plants.everything_that_is_refused(monkeypatch.setattr)
    plants.TOUCHED.unlink(missing_ok=True)
    with pytest.raises(HandlerMisbehaves, match=r"plants.py:\d+ tries to open a socket"):
        play(1, plan=replace(drawn(Random("plan 1")), faults=("answer",), is_watched=True))
    assert not plants.TOUCHED.exists()


def test_a_seed_is_the_same_world_in_another_process() -> None:
    """Whatever order its sets have there."""
    told = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize("kept", SEEDS, ids=lambda kept: kept.stem)
def test_a_world_that_broke_a_promise_once_breaks_none_any_more(kept: Path) -> None:
    told = json.loads(kept.read_text())
    assert play(told["seed"], plan=Plan.from_told(told["plan"])).violations == ()


def test_what_breaks_is_made_small_and_breaks_still(monkeypatch: pytest.MonkeyPatch) -> None:
    take_out("derived-id", monkeypatch)
    (broken,) = simulate(range(1, 1 + SOON)).broken
    smallest = shrunk(broken)
    assert smallest.violations
    assert sum(_size(smallest.plan)) < sum(_size(broken.plan))


def _size(plan: Plan) -> tuple[int, ...]:
    return len(plan.faults), plan.most_faults, plan.replicas, plan.partitions, plan.customers, plan.orders


def test_it_is_known_where_processes_were_killed() -> None:
    """Lines of the code that is played, with an await each."""
    summary = simulate(range(1, 21))
    assert len(set(summary.killed_at).intersection(all_awaits())) > 10


def test_an_await_at_which_somebody_is_killed_is_one_at_which_somebody_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "_LOOKED_AT", 1)
    summary = simulate(range(1, 11))
    assert set(summary.killed_at) < summary.waited_at


def test_who_looks_where_processes_wait_sees_the_same_world(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [play(seed).steps for seed in range(1, 9)]
    monkeypatch.setattr(world, "_LOOKED_AT", 1)
    assert [play(seed).steps for seed in range(1, 9)] == before


def test_it_is_known_which_faults_coincided_and_who_waited_for_whom() -> None:
    summary = simulate(range(1, 81))
    assert summary.coincided
    assert any("lock" in waited for waited, _ in summary.met)
    assert {waited for waited, _ in summary.met} < summary.carried_out
    missed = {reached.name: len(reached.missed) for reached in summary.coverage()}
    assert 0 < missed["waiting"] < len(summary.carried_out)
    assert missed["pairs"] == len(FAULTS) * (len(FAULTS) - 1) // 2 - len(summary.coincided)
    assert all(worlds <= summary.schedules for worlds in (summary.coincided | summary.met).values())


def test_a_log_that_forgets_what_was_not_read_stops_who_has_not_read_it() -> None:
    """In some of these worlds; in the others all was read, and all promises are kept."""
    plan = replace(drawn(Random("plan 1")), faults=("retention", "crash"), most_faults=4)
    outcomes = [play(seed, plan=plan, trace=True) for seed in range(1, 31)]
    assert [outcome.violations for outcome in outcomes if outcome.violations] == []
    assert any("begins at" in line for outcome in outcomes for line in outcome.told)


def test_who_reads_past_what_a_log_has_forgotten_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a consumer does that begins where the log does, and a kernel that takes that for right."""
    take_out("hole-in-reading", monkeypatch)
    monkeypatch.setattr(consumer, "compare", lambda service, there, known: None)
    monkeypatch.setattr(log.Log, "fetch", from_the_beginning(log.Log.fetch))
    plan = replace(drawn(Random("plan 1")), faults=("retention", "crash"), most_faults=4)
    assert any(play(seed, plan=plan).violations for seed in range(1, 31))


def from_the_beginning(fetch: Any) -> Any:
    async def forgiving(self: log.Log, place: Any, offset: int, limit: int) -> Any:
        return await fetch(self, place, max(offset, self.partitions[place].begin), limit)

    return forgiving


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    whole = simulate(range(1, 9))
    page, command = tmp_path / "page.md", "choreo simulate"
    first = Report(page, command, 8, 1, 0)
    first.keep(simulate(list(first.seeds)[:3]))
    second = Report(page, command, 8, None, 0)
    assert second.seeds == range(4, 9)
    total = second.total(simulate(second.seeds))
    second.keep(total)
    assert replace(total, wall_seconds=0.0) == replace(whole, wall_seconds=0.0)
    assert not Report(page, command, 8, 1, 0).seeds
    assert "8 of 8: seeds 1 to 8" in page.read_text()


def test_a_run_goes_on_with_nothing_but_the_same_code_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, command = tmp_path / "page.md", "choreo simulate"
    Report(page, command, 8, 1, 0).keep(simulate(range(1, 2)))
    with pytest.raises(Unavailable, match="began with seed 1"):
        Report(page, command, 8, 2, 0)
    monkeypatch.setattr("choreo.simulation.results.report.digest_of_code", lambda: "other")
    with pytest.raises(Unavailable, match="is of other code"):
        Report(page, command, 8, 1, 0)


def test_two_processes_play_the_same_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "_PIECE", 4)
    alone, beside = simulate(range(8)), simulate_beside(range(8), 2)
    assert (alone.steps, alone.faults, alone.killed_at) == (beside.steps, beside.faults, beside.killed_at)
    assert (alone.coincided, alone.met) == (beside.coincided, beside.met)


def test_who_is_killed_while_others_play_for_him_leaves_nobody_behind() -> None:
    choreo = Path(sys.executable).with_name("choreo")
    many = ("simulate", "--schedules", "1000000", "--processes", "2")
    with subprocess.Popen([choreo, *many], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "simulating" in process.stderr.readline()
        playing = psutil.Process(process.pid).children()
        assert len(playing) >= 2
        process.kill()
    assert psutil.wait_procs(playing, timeout=30)[1] == []


def test_whoever_watches_a_world_sees_the_same_one() -> None:
    for seed in range(1, 9):
        assert play(seed, trace=True).steps == play(seed).steps


def test_where_nothing_befalls_anybody_nobody_waits_for_a_poll() -> None:
    plan = replace(drawn(Random("plan 1")), faults=("answer",), steps_between_faults=10**9, look_seconds=5.0)
    assert play(1, plan=replace(plan, deadline_seconds=30.0)).seconds < 5.0


def test_who_goes_round_in_no_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_MOST_STEPS", 100)
    simulated = loop.SimulatedLoop(Random(1), stays=0.5, hurries=0.0)

    async def go_round() -> None:
        while True:
            await give_way()

    simulated.inside(lambda: loop.Process("somebody").begin(go_round()) and None)
    assert not simulated.play(lambda: False, 1.0)
    simulated.close()


def test_who_was_there_before_neither_registers_nor_has_to_pay_in(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(drawn(Random("plan 1")), faults=("answer",), knows_customers=True, customers=2, orders=1)
    known = play(1, plan=plan, trace=True)
    assert known.violations == ()
    assert not any("register" in line for line in known.told)
    assert any("order customer-2 order 0: 201" in line for line in known.told)
    monkeypatch.setattr(world, "past_of", lambda customers, partitions: None)
    assert any("register" in line for line in play(1, plan=plan, trace=True).told)


def test_a_past_is_given_away_as_it_was() -> None:
    plan = replace(drawn(Random("plan 1")), faults=("answer",), knows_customers=True)
    assert play(1, plan=plan, trace=True).told == play(1, plan=plan, trace=True).told


def test_what_one_world_has_left_undone_keeps_nobody_in_the_next_from_going_on() -> None:
    """What belongs to no process, as the restart of one that was killed."""
    left, other = (loop.SimulatedLoop(Random(1), stays=0.5, hurries=0.0) for _ in range(2))
    done: list[str] = []
    left.call_soon(done.append, "left")
    left.close()
    other.call_soon(done.append, "other")
    other.play(lambda: bool(done), 1.0)
    other.close()
    assert done == ["other"]


def test_seeds_differ() -> None:
    assert play(1).steps != play(2).steps
