"""`make mutants`: does anybody notice when the code that keeps the promise is changed by a line?

Each change is made in a copy of this tree and tried by the quick unit tests, the simulation, and then the
tests on real Kafka and Postgres that know its module; of these the one that `docs/reports/mutants.md` names
comes first. What is done is kept, so that an interrupted run is taken up again, and what nothing caught is
tried again; the page is written anew at the end.
"""

import json
import platform
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from choreo.progress import telling
from choreo.simulation.programme import simulate
from tests.mutants.changes import KINDS, ROOT, Change, sample
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.trial import SCHEDULES, Verdict, copied, is_sound, tried
from tests.removals.guards import GUARDS
from tests.removals.in_memory import take_out

EACH, SEED = 3, 1
GUARD_SCHEDULES = 50
"""Of a guard it is known who notices: this only looks whether the simulation does soon, too."""
PAGE = ROOT / "docs" / "reports" / "mutants.md"


def main() -> int:
    options = _options()
    kept = _Kept(options.kept)
    changes = sample(options.each, options.seed)
    ends_at = time.monotonic() + options.minutes * 60
    before = caught_before(PAGE.read_text()) if PAGE.exists() else {}
    with telling() as tell, copied() as tree:
        if not is_sound(tree):
            print("where nothing is changed a test fails or a promise is broken: see to that first")
            return 2
        for done, change in enumerate(changes):
            tell("changes", done, len(changes))
            if change.id in EQUIVALENT:
                continue
            known = kept.verdicts.get(change.id)
            if time.monotonic() < ends_at and (known is None or known.by.startswith("nothing")):
                verdict = tried(
                    tree,
                    change,
                    schedules=options.schedules,
                    real=options.real,
                    first=before.get(change.id, ""),
                )
                kept.add(change.id, verdict)
        for done, guard in enumerate(GUARDS):
            tell("guards", done, len(GUARDS))
            if time.monotonic() < ends_at and guard not in kept.verdicts:
                kept.add(guard, _without(guard, GUARD_SCHEDULES))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(changes, kept.verdicts, options.seed, options.schedules))
    missed = [change for change in changes if _is_missed(change, kept.verdicts)]
    undone = [one for one in changes if one.id not in kept.verdicts and one.id not in EQUIVALENT]
    print(f"{len(changes)} changes, {len(undone)} not tried yet, {len(missed)} that nothing caught: {PAGE}")
    return 1 if missed or undone else 0


def _is_missed(change: Change, verdicts: Mapping[str, Verdict]) -> bool:
    verdict = verdicts.get(change.id)
    return verdict is not None and verdict.by.startswith("nothing") and change.id not in EQUIVALENT


def caught_before(page: str) -> dict[str, str]:
    """By the id of a change the test that the page names."""
    return dict(re.findall(r"^\| `(\w{10})` \|.* \| `(tests/[^`]+)` \|", page, re.MULTILINE))


def _options() -> "_Options":
    parser = ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--each", type=int, default=EACH, help="so many changes of each kind")
    parser.add_argument("--seed", type=int, default=SEED, help="which of them")
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help="worlds with each change")
    parser.add_argument("--minutes", type=float, default=120.0, help="then it ends; again, it goes on")
    parser.add_argument(
        "--real", action=BooleanOptionalAction, default=True, help="also tests on real Kafka and Postgres"
    )
    parser.add_argument("--kept", type=Path, default=ROOT / ".choreo" / "mutants.ndjson", help="what is done")
    options: _Options = parser.parse_args()  # type: ignore[assignment]
    return options


class _Options:
    each: int
    seed: int
    schedules: int
    minutes: float
    real: bool
    kept: Path


class _Kept:
    """What is known already, by name of a guard or id of a change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.verdicts: dict[str, Verdict] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            told = json.loads(line)
            id = told.pop("id")
            self.verdicts[id] = Verdict(**told)

    def add(self, id: str, verdict: Verdict) -> None:
        self.verdicts[id] = verdict
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            print(json.dumps({"id": id} | asdict(verdict)), file=file)


def _without(guard: str, schedules: int) -> Verdict:
    """What the simulation says; the test that is said to notice is run by `tests/removals/`."""
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        take_out(guard, patch)
        told = simulate(range(1, 1 + schedules))
    promises = {one.promise for outcome in told.broken for one in outcome.violations}
    schedule = told.schedules if told.broken else 0
    return Verdict(", ".join(sorted(promises)), schedule, time.monotonic() - begun)


def page(changes: Sequence[Change], verdicts: Mapping[str, Verdict], seed: int, schedules: int) -> str:
    return "\n".join((*_told(changes, verdicts, seed, schedules), ""))


def _told(
    changes: Sequence[Change], verdicts: Mapping[str, Verdict], seed: int, schedules: int
) -> Iterator[str]:
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    counts = Counter(_by_whom(change, verdicts) for change in changes)
    yield "# Who notices when a line is wrong"
    yield ""
    yield (
        f"Written by `make mutants` on {datetime.now(UTC):%Y-%m-%d}, at commit {commit.stdout.strip()}, with "
        f"Python {platform.python_version()}: seed {seed}, {len(changes)} changes of {len(KINDS)} kinds, up "
        f"to {schedules} schedules each, counted from seed 1 on. The same command makes the same changes. "
        "[Decision 67](../decisions/0067-changes-are-made-from-the-syntax.md) says how they come about."
    )
    yield ""
    minutes = sum(verdicts[one.id].seconds for one in changes if one.id in verdicts) / 60
    yield (
        f"Caught by: {', '.join(f'{who} {counts[who]}' for who in sorted(counts))}. That took "
        f"{minutes:.0f} minutes on a machine that was busy with other work."
    )
    yield from (
        "",
        "## Changes",
        "",
        "Who is named is the first that failed, of the unit tests that know the module, the simulation, and "
        "tests on real Kafka and Postgres, in this order; but a test on real parts that caught it in the run "
        "before is asked before the simulation. Seconds are those of all who were asked.",
        "",
        "| Id | Where | Kind | Change | Caught by | Schedules | Seconds |",
        "|---|---|---|---|---|---|---|",
    )
    for change in changes:
        verdict = verdicts.get(change.id, Verdict("not tried yet"))
        by = f"`{verdict.by}`" if verdict.by.startswith("tests/") else verdict.by
        yield _row(
            f"`{change.id}`",
            f"`{change.path}:{change.function or change.line}`",
            change.kind,
            _shown(change),
            f"nobody: {EQUIVALENT[change.id]}" if change.id in EQUIVALENT else by,
            verdict.schedules or "",
            "" if change.id in EQUIVALENT else f"{verdict.seconds:.0f}",
        )
    yield from (
        "",
        "## Guards",
        "",
        "Each is [taken out](../delivery.md#what-misses-them) in every run of the tests, and the test named "
        "here has to fail. Besides, the first schedule that breaks a promise, where one of the first "
        f"{GUARD_SCHEDULES} does.",
        "",
        "| Guard | Taken out | Caught by | Promise | Schedules |",
        "|---|---|---|---|---|",
    )
    for name, guard in GUARDS.items():
        verdict = verdicts.get(name, Verdict(""))
        yield _row(
            f"`{name}`",
            guard.without,
            f"`{guard.noticed_by}`",
            verdict.by,
            verdict.schedules or "",
        )


def _by_whom(change: Change, verdicts: Mapping[str, Verdict]) -> str:
    verdict = verdicts.get(change.id)
    if change.id in EQUIVALENT:
        return "nobody, being the same"
    if verdict is None:
        return "not tried yet"
    return re.split(r"[:/]", verdict.by.removeprefix("tests/"))[0]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _shown(change: Change) -> str:
    before, after = (" ↵ ".join(map(str.strip, text.splitlines())) for text in (change.before, change.after))
    return f"`{before}` → `{after}`"


if __name__ == "__main__":
    sys.exit(main())
