"""`make mutants`: does anybody notice when the code that keeps the promise is changed by a line?

Each change is made in a copy of this tree and tried by the quick unit tests, the simulation, and then the
tests on real Kafka and Postgres that know its module. What is done is kept, so that an interrupted run is
taken up again; `docs/reports/mutants.md` is written anew at the end.
"""

import json
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from choreo.progress import telling
from choreo.simulation.programme import simulate
from tests.mutants.changes import ROOT, Change, sample
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.trial import SCHEDULES, Verdict, copied, is_sound, tried
from tests.removals.guards import GUARDS
from tests.removals.in_memory import take_out

EACH, SEED = 4, 1
PAGE = ROOT / "docs" / "reports" / "mutants.md"


def main() -> int:
    options = _options()
    kept = _Kept(options.kept)
    changes = sample(options.each, options.seed)
    ends_at = time.monotonic() + options.minutes * 60
    with telling() as tell, copied() as tree:
        if not is_sound(tree):
            print("where nothing is changed a test fails or a promise is broken: see to that first")
            return 2
        for done, guard in enumerate(GUARDS):
            tell("guards", done, len(GUARDS))
            if time.monotonic() < ends_at and guard not in kept.verdicts:
                kept.add(guard, _without(guard, options.schedules))
        for done, change in enumerate(changes):
            tell("changes", done, len(changes))
            before = kept.verdicts.get(change.id)
            if time.monotonic() < ends_at and (before is None or (options.real and before.by in _OPEN)):
                kept.add(change.id, tried(tree, change, schedules=options.schedules, real=options.real))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(changes, kept.verdicts, options.seed, options.schedules))
    missed = [change for change in changes if _is_missed(change, kept.verdicts)]
    undone = [change for change in changes if change.id not in kept.verdicts]
    print(f"{len(changes)} changes, {len(undone)} not tried yet, {len(missed)} that nothing caught: {PAGE}")
    return 1 if missed or undone else 0


_OPEN = ("nothing quick",)


def _is_missed(change: Change, verdicts: Mapping[str, Verdict]) -> bool:
    verdict = verdicts.get(change.id)
    return verdict is not None and verdict.by.startswith("nothing") and change.id not in EQUIVALENT


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
            self.verdicts[told["id"]] = Verdict(told["by"], told["schedules"])

    def add(self, id: str, verdict: Verdict) -> None:
        self.verdicts[id] = verdict
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            print(json.dumps({"id": id, "by": verdict.by, "schedules": verdict.schedules}), file=file)


def _without(guard: str, schedules: int) -> Verdict:
    with pytest.MonkeyPatch.context() as patch:
        take_out(guard, patch)
        told = simulate(range(1, 1 + schedules))
    if not told.broken:
        return Verdict(GUARDS[guard].noticed_by)
    promises = {one.promise for outcome in told.broken for one in outcome.violations}
    return Verdict(f"simulation: {', '.join(sorted(promises))}", told.schedules)


def page(changes: Sequence[Change], verdicts: Mapping[str, Verdict], seed: int, schedules: int) -> str:
    return "\n".join((*_told(changes, verdicts, seed, schedules), ""))


def _told(
    changes: Sequence[Change], verdicts: Mapping[str, Verdict], seed: int, schedules: int
) -> Iterator[str]:
    yield "# Who notices when a line is wrong"
    yield ""
    yield (
        f"Written by `make mutants` (seed {seed}, {schedules} schedules). Who is named is the first that "
        "failed: unit tests, then the simulation, then tests on real Kafka and Postgres. Schedules are "
        "counted from seed 1 on. [Decision 67](../decisions/0067-changes-are-made-from-the-syntax.md) says "
        "how changes come about."
    )
    yield from (
        "",
        "## Changes",
        "",
        "| Change | Kind | What | Caught by | Schedules |",
        "|---|---|---|---|---|",
    )
    for change in changes:
        verdict = verdicts.get(change.id, Verdict("not tried yet"))
        by = f"equivalent: {EQUIVALENT[change.id]}" if change.id in EQUIVALENT else verdict.by
        cells = (f"{change.path}:{change.line}", change.kind, _shown(change), by, verdict.schedules or "")
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    yield from ("", "## Guards", "", "| Without | Caught by | Schedules |", "|---|---|---|")
    for name, guard in GUARDS.items():
        verdict = verdicts.get(name, Verdict(guard.noticed_by))
        yield f"| `{name}` | {verdict.by} | {verdict.schedules or ''} |"


def _shown(change: Change) -> str:
    before, after = (" ↵ ".join(map(str.strip, text.splitlines())) for text in (change.before, change.after))
    return f"`{before}` → `{after}`"


if __name__ == "__main__":
    sys.exit(main())
