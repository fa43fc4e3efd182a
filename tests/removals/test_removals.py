"""A guard nobody misses guards nothing: each is taken out once, and the suite has to notice."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from choreo.embedded.process import tied_to_this_process
from tests.removals.guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "delivery.md"
AT_ONCE = 2
PATIENCE = 60.0
"""Seconds for the tests of one guard, with a Postgres and perhaps a Kafka of their own."""

ENVIRONMENT = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "1000"}
"""No plugin is loaded that is not needed; and the last lines of pytest's report are whole."""

_ROW = re.compile(r"^\| `([\w-]+)` \| (.+?) \| `(tests/.+?)` \|$", re.MULTILINE)

Run = tuple[int | None, str]
"""Exit code and output."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, "asyncio.Task[Run]"]]:
    """For each guard that is to be tested, the test that is said to notice, run without it."""
    wanted = {
        item.callspec.params.get("guard") for item in request.session.items if hasattr(item, "callspec")
    }
    room = asyncio.Semaphore(AT_ONCE)
    tasks = {
        guard.name: asyncio.create_task(run_without(guard, room))
        for guard in GUARDS.values()
        if guard in wanted
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def run_without(guard: Guard, room: asyncio.Semaphore) -> Run:
    async with room:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider"),
            *("-q", "-o", "addopts=", "-rfE", "--without", guard.name, guard.noticed_by),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=tied_to_this_process(signal.SIGKILL),
        )
        try:
            async with asyncio.timeout(PATIENCE):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode, output.decode()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_the_suite_notices_that_a_guard_is_gone(
    guard: Guard, runs: dict[str, "asyncio.Task[Run]"]
) -> None:
    code, output = await runs[guard.name]
    print(output)
    assert code == pytest.ExitCode.TESTS_FAILED, "nobody noticed"
    (failed,) = [line for line in output.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    assert failed.startswith(f"FAILED {guard.noticed_by} - ")
    assert "TimeoutError" not in failed, "it did not fail: it waited in vain"


def test_the_page_lists_the_guards_and_who_misses_them() -> None:
    assert _ROW.findall(PAGE.read_text()) == [
        (guard.name, guard.without, guard.noticed_by) for guard in GUARDS.values()
    ]
