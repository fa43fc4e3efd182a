"""One change in a copy of this tree, and who catches it: the quickest first."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from choreo.embedded.process import tied_to_this_process
from tests.mutants.changes import ROOT, Change

SCHEDULES = 400
"""Worlds that are played with each change."""
UNIT_SECONDS, SIMULATION_SECONDS = 120, 180
"""Of processor time: what has not ended by then is caught, too. Hardly anything that works takes a tenth."""
COMPONENT_SECONDS = 300
"""Of anybody's clock, for one file of tests on real Kafka and Postgres."""
_FILES = 3
"""Of these at most so many are tried for a change, those first that speak of its module most."""
_BESIDES = {
    "choreo/chassis/transaction": (
        "tests/unit/test_kernel.py",
        "tests/unit/test_step.py",
        "tests/component/test_kernel.py",
        "tests/component/test_stores.py",
    ),
    "choreo/chassis/kafka": (
        "tests/unit/test_consumer.py",
        "tests/choreography/test_consumer.py",
        "tests/choreography/test_positions.py",
    ),
}
"""And these, which go through all of a folder whether they name it or not."""
_OF_TEXT = ("test_mutants.py", "test_tidy.py", "test_source_lines.py", "test_makefile.py")
"""Tests of what the code looks like: they say nothing of what it does."""

_SIMULATE = """
import json, sys
from choreo.simulation.programme import simulate
told = simulate(range(1, 1 + int(sys.argv[1])))
promises = sorted({one.promise for outcome in told.broken for one in outcome.violations})
print(json.dumps({"schedules": told.schedules, "promises": promises}))
"""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    by: str
    """`nothing`, or who caught it: a test, or the simulation with the promise that broke."""
    schedules: int = 0
    """Which world it was, counted from 1; 0 where it was none."""
    seconds: float = 0.0
    """By anybody's clock, with those who were asked before."""


@contextmanager
def copied() -> Iterator[Path]:
    """The files of this tree that git knows of, or would, in a folder of their own."""
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="choreo-mutants-") as folder:
        tree = Path(folder)
        for name in told.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        yield tree


def is_sound(tree: Path, schedules: int = 5) -> bool:
    """Whether nobody complains where nothing is changed: else everybody would be believed."""
    tested = _tested(tree, files_about("billing_service/decide.py", ("tests/unit",)), UNIT_SECONDS, cpu=True)
    return tested is None and _simulated(tree, schedules) is None


def tried(
    tree: Path, change: Change, *, schedules: int = SCHEDULES, real: bool = True, first: str = ""
) -> Verdict:
    """In that copy, which is as before afterwards. `real`: also by tests on real Kafka and Postgres. `first`
    is a test that has caught it before.
    """
    path = tree / change.path
    source, begun = path.read_text(), time.monotonic()
    path.write_text(change.applied(source))
    try:
        found = _verdict(tree, change, schedules, real, first)
    finally:
        path.write_text(source)
    return replace(found, seconds=time.monotonic() - begun)


def _verdict(tree: Path, change: Change, schedules: int, real: bool, first: str) -> Verdict:
    files = _asked(change.path, files_about(change.path, _QUICK), _QUICK)
    if files and (caught := _tested(tree, files, UNIT_SECONDS, cpu=True)):
        return Verdict(caught)
    if first.startswith(_REAL) and real and (caught := _tested(tree, [first], COMPONENT_SECONDS, cpu=False)):
        return Verdict(caught)
    if found := _simulated(tree, schedules):
        return found
    for file in _asked(change.path, files_about(change.path, _REAL)[:_FILES], _REAL) if real else ():
        if caught := _tested(tree, [file], COMPONENT_SECONDS, cpu=False):
            return Verdict(caught)
    return Verdict("nothing" if real else "nothing quick")


_QUICK, _REAL = ("tests/unit",), ("tests/component", "tests/choreography")


def _asked(path: str, files: Sequence[str], folders: tuple[str, ...]) -> list[str]:
    """With those that go through all of its folder."""
    besides = _BESIDES.get(str(Path(path).parent), ())
    return [*files, *(file for file in besides if file not in files and file.startswith(folders))]


def files_about(path: str, folders: Sequence[str]) -> list[str]:
    """Files of tests that import this module, or for a decider its service; first that of its own name, then
    those that name it most.
    """
    package, _, module = path.removesuffix(".py").replace("/", ".").rpartition(".")
    if package.endswith("_service"):
        names = re.compile(rf"\b{package}\b")
    else:
        names = re.compile(rf"\b{package}(?:\.{module}\b| import .*\b{module}\b)")
    found = [
        (not name.endswith(f"/test_{module}.py"), -len(names.findall(text)), name)
        for name, text in _tests()
        if name.startswith(tuple(folders)) and names.search(text)
    ]
    return [name for _, _, name in sorted(found)]


@cache
def _tests() -> list[tuple[str, str]]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in paths if path.name not in _OF_TEXT]


def _tested(tree: Path, files: Sequence[str], seconds: int, *, cpu: bool) -> str | None:
    """The first test that fails."""
    options = ("-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=", "-rfE")
    code, output = _run(tree, ["-m", "pytest", *options, *files], seconds, cpu=cpu)
    if code in (0, 4, 5):  # 4 and 5: there is no such test
        return None
    failed = _FAILED.search(output)
    return failed.group(1) if failed else f"{files[0]} does not end" if code < 0 else f"{files[0]} breaks off"


def _simulated(tree: Path, schedules: int) -> Verdict | None:
    code, output = _run(tree, ["-c", _SIMULATE, str(schedules)], SIMULATION_SECONDS, cpu=True)
    if code < 0:
        return Verdict("simulation: a world does not end")
    if code:
        return Verdict("simulation: it does not run")
    told = json.loads(output.splitlines()[-1])
    if not told["promises"]:
        return None
    return Verdict(f"simulation: {', '.join(told['promises'])}", told["schedules"])


def _run(tree: Path, arguments: Sequence[str], seconds: int, *, cpu: bool) -> tuple[int, str]:
    """Returns the exit code, negative where it had to be ended, and what it printed."""

    tie = tied_to_this_process(signal.SIGKILL)

    def prepare() -> None:
        tie()
        if cpu:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    ) as process:
        try:
            output, _ = process.communicate(timeout=None if cpu else seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return -signal.SIGKILL, ""
        return process.returncode, output
